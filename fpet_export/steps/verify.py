"""Parity over the stages of one export: adapted, folded, frozen, ONNX, engines.

The reference is always the adapted model in float64 on the same pixels. A failed gate names the
first stage that drifted, and with it the file to look at.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from engines.contract import OpenOptions
from engines.engine import open_engine
from engines.errors import InputError
from engines.imaging.images import ImageSet, PixelArray
from engines.manifest import read_manifest
from engines.parity.comparison import ReferenceOutputs
from engines.parity.gates import gates_of
from engines.parity.model_outputs import ModelOutputs
from engines.parity.outputs import as_written, engine_outputs, manifest_of
from engines.parity.rounding import rounding_in
from engines.parity.rows import StageParity
from fpet_export.steps.parity_images import FOLD_IMAGES

if TYPE_CHECKING:
    from fpet_export.stages import Adapted, Folded, Frozen

Progress = Callable[[int], None]
DEFAULT_IMAGES = 8
_AT_ONCE = 8
REFERENCE = "adapted model in float64"


def begin(
    adapted: Adapted, images: ImageSet, *, progress: Progress | None = None
) -> ReferenceOutputs:
    """Run the float64 reference over `images`.

    Raises:
        InputError: The images are labelled with classes that are not the model's.
    """
    spec = adapted.model.spec
    check_labels(images, spec.classes)
    reference = adapted.outputs(images.pixels, progress=progress)
    tokens = None if adapted.model.merger is None else spec.tokens
    return ReferenceOutputs(name=REFERENCE, images=images, outputs=reference, tokens=tokens)


def until_fold(
    adapted: Adapted, folded: Folded, images: ImageSet, *, progress: Progress | None = None
) -> tuple[ReferenceOutputs, StageParity, StageParity]:
    """Run everything up to the fold in one pass over the images.

    The float64 reference, the float32 checkpoint and, on the first images, the folded model in
    float64: see `fpet_export.steps.parity_images`.

    Args:
        adapted: The model as it was trained.
        folded: The same, folded.
        images: What to compare on.
        progress: Called with the number of forward passes, an image each, that were just done;
            there are `forward_passes(len(images))`.

    Returns:
        What later stages are compared with, the checkpoint's row and the folded model's.

    Raises:
        InputError: The images are labelled with classes that are not the model's.
    """
    import torch  # predict and build need the rest of this file, and no torch

    spec = adapted.model.spec
    check_labels(images, spec.classes)
    few = min(FOLD_IMAGES, len(images))
    found: tuple[list[ModelOutputs], list[ModelOutputs]] = ([], [])
    for start in range(0, len(images), _AT_ONCE):
        part = images.pixels[start : start + _AT_ONCE]
        for stage, dtype in zip(found, (torch.float64, torch.float32), strict=True):
            stage.append(adapted.outputs(part, dtype=dtype, progress=progress))
    reference, checkpoint = map(ModelOutputs.joined, found)
    check = ReferenceOutputs(
        name=REFERENCE,
        images=images,
        outputs=reference,
        tokens=None if adapted.model.merger is None else spec.tokens,
    )
    return (
        check,
        # The published rule loses tokens to rounding, and that is not our drift: not judged.
        check.compare("checkpoint f32", checkpoint, judged=False),
        check.compare("folded", folded.outputs(images.pixels[:few], progress=progress), first=few),
    )


def forward_passes(images: int) -> int:
    """Return how many forward passes of one image `until_fold` takes."""
    return 2 * images + min(FOLD_IMAGES, images)


def check_labels(images: ImageSet, classes: int) -> None:
    """Refuse images whose labels cannot mean the classes of the model.

    Raises:
        InputError: A label is out of range, or another number of classes is named; a label is a
            place among the names, so with a class missing it would mean another class.
    """
    labels = images.labels
    if labels is None:
        return
    if not 0 <= labels.min() <= labels.max() < classes:
        raise InputError(
            f"labels {labels.min()} to {labels.max()} for a model of {classes} classes",
            where=images.description,
            fix="give the data set this run was tuned for",
        )
    if images.class_names and len(images.class_names) != classes:
        raise InputError(
            f"{len(images.class_names)} classes for a model of {classes} classes",
            where=images.description,
            fix="give the data set that this run was tuned for, with every class (a folder "
            "may be empty), or images without labels",
        )


def checkpoint_row(check: ReferenceOutputs, adapted: Adapted, progress: Progress) -> StageParity:
    """Show the adapted model in float32, as the authors' evaluation runs it.

    It is not judged: the published rule loses tokens to rounding, and that is not our drift.
    """
    import torch  # predict and build need the rest of this file, and no torch

    evidence = adapted.outputs(check.images.pixels, dtype=torch.float32, progress=progress)
    return check.compare("checkpoint f32", evidence, judged=False)


def folded_row(check: ReferenceOutputs, folded: Folded, progress: Progress) -> StageParity:
    """Compare the folded model in float64."""
    return check.compare("folded", folded.outputs(check.images.pixels, progress=progress))


def frozen_row(check: ReferenceOutputs, frozen: Frozen, progress: Progress) -> StageParity:
    """Compare the frozen module in PyTorch."""
    return check.compare("frozen", frozen.outputs(check.images.pixels, progress=progress))


def onnx_row(check: ReferenceOutputs, path: Path, progress: Progress) -> StageParity:
    """Compare the graph in ONNX Runtime, with its match and sizes."""
    return check.compare("onnx", graph_outputs(path, check.images.pixels, progress=progress))


def engine_row(check: ReferenceOutputs, path: Path, progress: Progress) -> StageParity:
    """Compare a built engine; it shows its logits only, and is held to its precision's gates."""
    manifest = read_manifest(path)
    with open_engine(path, options=OpenOptions(allow_failed=True)) as engine:
        evidence = engine_outputs(engine, manifest, check.images.pixels, progress=progress)
    gates = gates_of(manifest.precision, rounding=rounding_in(manifest.parity))
    return check.compare(f"{manifest.target} engine", evidence, gates=gates)


def graph_outputs(
    path: Path, pixels: PixelArray, *, progress: Progress | None = None
) -> ModelOutputs:
    """Run a graph with its probes as additional outputs."""
    from engines.backends import ort
    from engines.onnx_graph.taps import with_outputs

    manifest = manifest_of(path)
    with tempfile.TemporaryDirectory(prefix="fpet-export-") as folder:
        probed = with_outputs(path, manifest.probes.values(), Path(folder))
        with ort.open_engine(probed, None, options=as_written(manifest)) as engine:
            return engine_outputs(engine, manifest, pixels, progress=progress)
