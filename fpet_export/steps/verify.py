"""Parity over the stages of one export: adapted, folded, frozen, ONNX, engines.

The reference is always the adapted model in float64 on the same pixels. A failed gate names the
first stage that drifted, and with it the file to look at.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from engines.contract import OpenOptions
from engines.engine import open_engine
from engines.imaging.images import ImageSet
from engines.manifest import read_manifest
from engines.parity.comparison import ReferenceOutputs
from engines.parity.gates import gates_of
from engines.parity.model_outputs import ModelOutputs
from engines.parity.outputs import engine_outputs
from engines.parity.rounding import rounding_in
from engines.parity.rows import StageParity
from fpet_export.model.mergers import PUBLISHED
from fpet_export.stages import Adapted, Folded, Frozen
from fpet_export.steps.float64_reference import REFERENCE, check_labels
from fpet_export.steps.graph_outputs import graph_outputs
from fpet_export.steps.parity_images import FOLD_IMAGES

Progress = Callable[[int], None]
_AT_ONCE = 8


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
    spec, plan = adapted.model.spec, adapted.merge_plan()
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
        tokens=spec.tokens if plan.counts_patches else None,
        drops_ties=plan.merger == PUBLISHED,
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
