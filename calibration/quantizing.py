"""Quantize a graph in one call: calibrate, type, judge and write it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from calibration.accuracy import AccuracyConstraint
from calibration.collect import calibrate
from calibration.evaluator import evaluator_for
from calibration.graph_typing import Typed, half_precision, integers, recipe_for, write
from calibration.policy import PRESETS, Preset
from calibration.requirements import require_opset
from calibration.table import CalibrationTable, files_of, read_table
from engines import precisions, storage
from engines.engine import load_target
from engines.errors import InputError, UsageError
from engines.form import require_form
from engines.imaging.images import ImageSet
from engines.imaging.source import open_source
from engines.imaging.synthetic import synthetic_set
from engines.manifest import Manifest, read_manifest
from engines.parity.outputs import DEFAULT_IMAGES, manifest_of, preprocessing_of
from engines.parity.rows import judge
from engines.precisions import HalfName, InputOutput, TypedName
from engines.verdict import require_passed


def quantize(
    onnx: Path | str,
    *,
    precision: TypedName,
    out: Path | str | None = None,
    target: str | None = None,
    calibration: Path | str | CalibrationTable | None = None,
    images: ImageSet | None = None,
    constraint: AccuracyConstraint | None = None,
    preset: Preset = "vit-linear",
    keep: Sequence[str] = (),
    half: HalfName = precisions.FP16,
    io: InputOutput = precisions.FP32,
    force: bool = False,
) -> Path:
    """Write an exported float32 graph in another precision.

    `fpet_export.quantize` does the same as the command line does, with `best`, class names and
    progress; this needs neither torch nor a run.

    Args:
        onnx: The exported float32 graph with its manifest.
        precision: fp16, bf16, int8 or fp8.
        out: The graph to write; by default `model.int8.onnx` beside `model.onnx`.
        target: What it is typed for; by default what it was exported for.
        calibration: For int8 and fp8: images to find ranges on (a folder, a list or an `.npz`; 8
            at least, 128 are usual), a calibration table or its file.
        images: What the graph is judged on; by default a few synthetic ones.
        constraint: What the quantized graph must keep on `images`; layers are reverted to `half`
            until it does.
        preset: Which layers are quantized; see `calibration.policy.PRESETS`.
        keep: Layers that are not.
        half: The type of what is not quantized, on targets that compute it.
        io: Types of pixels and logits; see `calibration.casts.cast_graph`.
        force: Replace files that exist.

    Returns:
        `out`. Its parity table stands in its manifest.

    Raises:
        UsageError: An option is unknown or would not be obeyed, the target or the graph's opset
            does not allow it, or `out` exists.
        InputError: It is no float32 graph of ours, or images or table do not suit it.
        TrustError: The graph is not what its manifest says.
        BudgetError: The constraint cannot be satisfied.
        ExportError: A weight or an activation leaves the range of the type.
        ParityError: The graph, or what was made of it, failed its check; nothing is written.
    """
    source = Path(onnx)
    manifest = _float32_manifest(source)
    _one_of(preset, tuple(PRESETS), "preset")
    chosen = load_target(target or manifest.target)
    require_form(source, manifest, chosen)
    recipe = recipe_for(
        chosen,
        precision,
        io=_one_of(io, get_args(InputOutput), "io"),
        half=_one_of(half, precisions.HALVES, "half"),
    )
    if not recipe.quantizes:
        _refuse_unused(precision, calibration=calibration, constraint=constraint, keep=tuple(keep))
    require_opset(source, manifest, precision, chosen)
    path = source.with_suffix(f".{precision}.onnx") if out is None else Path(out)
    for file in files_of(path, quantizes=recipe.quantizes):
        storage.refuse_overwrite(file, force=force)
    table = None
    if recipe.quantizes:
        table = _table(source, calibration, precision, moments=recipe.form == "pairs")
    if images is None:
        images = synthetic_set(preprocessing_of(source).size, DEFAULT_IMAGES)
    evaluator = evaluator_for(source, manifest, images)
    made: Typed
    if table is None:
        made = half_precision(source, manifest, recipe, evaluator)
    else:
        made = integers(
            source, manifest, recipe, evaluator, table,
            preset=preset, keep=tuple(keep), constraint=constraint,
        )  # fmt: skip
    parity = evaluator.reference.table([made.row], reference=f"float32 graph {source.name}")
    judge(parity, fix="its row says what differs; try another precision, or keep layers out")
    return write(
        made, source, path, table=table, parity=parity.to_json(), target=chosen.name, force=force
    )


def _one_of(value: str, choices: Sequence[str], name: str) -> str:
    if value not in choices:
        raise UsageError(
            f"{value!r} is not one of {', '.join(choices)}", where=name, fix="give one of these"
        )
    return value


def _refuse_unused(precision: str, **settings: object) -> None:
    """Refuse what only a quantized graph obeys: left alone, it would seem to be kept."""
    for name, value in settings.items():
        if value not in (None, ()):
            raise UsageError(
                f"{precision} is not quantized, so there is nothing that {name} says of it",
                where=name,
                fix=f"leave {name} out, or quantize to int8 or fp8",
            )


def _float32_manifest(onnx: Path) -> Manifest:
    if not onnx.is_file():
        raise InputError("there is no such file", where=str(onnx), fix="check the path")
    manifest_of(onnx)
    manifest = read_manifest(onnx)
    if manifest.kind != "graph" or not manifest.is_float32:
        raise InputError(
            f"this {manifest.kind} is {manifest.precision} already",
            where=str(onnx),
            fix=f"quantize {manifest.parents[0].file if manifest.parents else 'the export'}",
        )
    require_passed(onnx, manifest)
    return manifest


def _table(
    onnx: Path,
    calibration: Path | str | CalibrationTable | None,
    precision: str,
    *,
    moments: bool,
) -> CalibrationTable:
    if isinstance(calibration, CalibrationTable):
        return calibration
    if calibration is None:
        raise UsageError(
            "int8 and fp8 need images to find ranges on",
            where="calibration",
            fix="give a folder of images or an .npz, 128 images are usual, or a calibration table",
        )
    path = Path(calibration)
    if path.suffix == ".json":
        return read_table(path)
    source = open_source(path, preprocessing_of(onnx))
    return calibrate(onnx, source, precision=precision, moments=moments)
