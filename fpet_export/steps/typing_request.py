"""What a request for typed graphs comes to: which precisions, and which files.

It is asked before anything heavy is imported, to refuse what cannot be had.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from calibration.requirements import require_precision
from calibration.table import files_of
from engines import precisions, storage
from engines.engine import load_target
from engines.errors import UsageError
from engines.manifest import Head, refuse_shared_side_car
from fpet_export.graph.options import with_opset
from fpet_export.requests import AUTO, BEST, Exporting, Quantization, Typing
from fpet_export.steps import check_images, merge_request

if TYPE_CHECKING:
    from engines.targets import Target


def judges_accuracy(request: Typing) -> bool:
    """Say whether graphs are limited in, or chosen by, what they answer on the user's images."""
    return request.precision in (*precisions.QUANTIZED, BEST)


def precisions_of(request: Typing, target: Target) -> tuple[str, ...]:
    """Return what is to be made for a target: one precision, or all that may be the best.

    Raises:
        UsageError: The target does not run it, or something was asked for that only INT8 and FP8
            have.
    """
    if request.precision not in (*precisions.QUANTIZED, BEST):
        _refuse_what_integers_have(request)
    if request.precision == precisions.FP32:
        if request.io == "uint8":
            raise UsageError(
                "--io belongs to a typed graph",
                where="--io uint8",
                fix="use --input uint8: the float32 graph then takes raw pixels",
            )
        return ()
    if request.precision != BEST:
        require_precision(target, request.precision, io=request.io)
        return (request.precision,)
    return tuple(name for name in precisions.TYPED if name in target.precisions)


def _refuse_what_integers_have(request: Typing) -> None:
    """Refuse to ignore, for example, a limit on accuracy."""
    usual = Quantization(io=request.io)
    # A limit is no question of the precision where it chooses the merge.
    of_merge = ("max_drop", "min_agreement") if getattr(request, "merge", None) == AUTO else ()
    given = [
        "--no-equalise" if field.name == "equalise" else f"--{field.name.replace('_', '-')}"
        for field in dataclasses.fields(Quantization)
        if field.name not in ("command", *of_merge)
        and getattr(request, field.name) != getattr(usual, field.name)
    ]
    if given:
        raise UsageError(
            f"{request.precision} has no layer to calibrate, to keep or to revert",
            where=", ".join(given),
            fix="leave this out, or ask for --precision int8",
        )


def typed_path(onnx: Path, precision: str) -> Path:
    """Return where a typed graph lies by default: `model.int8.onnx` beside `model.onnx`."""
    return onnx.with_name(f"{onnx.stem}.{precision}.onnx")


def state_path(out: Path) -> Path:
    """Return where an interrupted calibration leaves what it has: `model.int8.partial.json`."""
    return out.with_name(f"{out.stem}.partial.json")


def graphs_of(onnx: Path, request: Typing) -> tuple[Path, ...]:
    """Return the graphs beside `onnx`, and itself, of which `--precision` builds one."""
    if request.precision == precisions.FP32:
        return (onnx,)
    if request.precision == BEST:
        return (onnx, *(typed_path(onnx, precision) for precision in precisions.TYPED))
    return (typed_path(onnx, request.precision),)


def refuse_overwrite(out: Path, precision: str, *, force: bool) -> None:
    """Refuse to replace any file of a typed graph without force, and the manifest of another.

    Raises:
        UsageError: A file exists, or the name is not that of a graph of its own.
    """
    for file in files_of(out, quantizes=precision in precisions.QUANTIZED):
        storage.refuse_overwrite(file, force=force)
    if out.suffix != ".onnx":
        raise UsageError(
            f"the name of a typed graph ends in .onnx, {out.name} does not",
            where=str(out),
            fix=f"call it {out.with_suffix('.onnx')}",
        )
    refuse_shared_side_car(out)


def refuse_all(onnx: Path, request: Typing) -> None:
    """Refuse to replace the typed graphs that `--precision` would write beside `onnx`."""
    named = precisions.TYPED if request.precision == BEST else (request.precision,)
    for precision in named:
        if precision != precisions.FP32:
            refuse_overwrite(typed_path(onnx, precision), precision, force=request.force)


def refuse_class_limits(request: Typing, head: Head) -> None:
    """Refuse limits on classes where a network gives none.

    Raises:
        UsageError: There is such a limit.
    """
    if head == "logits":
        return
    for option in ("max_drop", "min_agreement"):
        if getattr(request, option) is not None:
            flag = f"--{option.replace('_', '-')}"
            raise UsageError(
                f"{flag} counts classes, and {head} name none",
                where=flag,
                fix="limit the noise instead, in decibels: --min-sqnr 30; or choose the merge or "
                "the precision with logits first",
            )


def needs_ranges(request: Exporting) -> bool:
    """Say whether any target gets integers, and refuse a precision that one does not run.

    Raises:
        UsageError: See `precisions_of`.
    """
    names = [
        name for target in request.targets for name in precisions_of(request, load_target(target))
    ]
    return any(name in precisions.QUANTIZED for name in names)


def refuse_without_images(request: Typing, *, needs: bool) -> None:
    """Refuse a limit on the accuracy, and ranges that are to be found, without images.

    Args:
        request: Which images, and which tables.
        needs: Whether there is something to calibrate.

    Raises:
        UsageError: There are none.
    """
    if request.max_drop is not None and request.data is None:
        raise UsageError(
            "--max-drop needs images with labels to measure the accuracy on",
            where="--max-drop",
            fix="add --data DATA; or limit what needs no labels: --min-agreement 99",
        )
    if needs and request.data is None and request.calibration is None and not request.table:
        raise UsageError(
            f"{request.precision} needs images to find its ranges on",
            where=f"--precision {request.precision}",
            fix="add --calibration DIR with real images, or --data DIR with twice as many",
        )


def refuse_export(request: Exporting) -> None:
    """Refuse what no export can give, before torch is imported.

    Raises:
        UsageError: An image set, a target, its opset or its precision is not to be had.
    """
    check_images.require_inputs(request)
    merge_request.refuse_unlimited(request)
    refuse_class_limits(request, request.head or "logits")
    if request.merge == AUTO:
        for file in merge_request.files_of(request):
            storage.refuse_overwrite(file, force=request.force)
    for target in map(load_target, request.targets):
        if request.opset is not None:
            with_opset(target, request.opset)
    refuse_without_images(request, needs=needs_ranges(request))
