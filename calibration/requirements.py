"""What a target and a graph must be for a precision, asked before anything is loaded."""

from __future__ import annotations

from pathlib import Path

from engines import precisions
from engines.errors import InputError, UsageError
from engines.manifest import Manifest
from engines.plurals import counted
from engines.targets import Target

LEAST_IMAGES = 8
"""Images of a calibration."""


def require_images(count: int, description: str) -> None:
    """Refuse to find ranges on a few images.

    Raises:
        InputError: There are fewer than `LEAST_IMAGES`.
    """
    if count < LEAST_IMAGES:
        raise InputError(
            f"{counted(count, 'image')} for a calibration, wanted {LEAST_IMAGES} or more",
            where=description,
            fix=f"give {LEAST_IMAGES} or more; 128 are usual",
        )


def require_precision(target: Target, precision: str, *, io: str = precisions.FP32) -> None:
    """Refuse a precision that a target does not run, and pixels that it does not take.

    Raises:
        UsageError: The target has no such precision, or takes no such input.
    """
    if precision not in precisions.TYPED or precision not in target.precisions:
        offered = [name for name in target.precisions if name in precisions.TYPED]
        raise UsageError(
            f"{target.name} does not run {precision}"
            + (f", it runs {', '.join(offered)}" if offered else ""),
            where=f"--precision {precision}",
            fix="choose one of these, or export the run for another target"
            if offered
            else "export the run for another target; `fpet-export targets` lists them",
        )
    if io != precisions.FP32 and target.integers != "pairs":
        raise UsageError(
            f"{target.name} computes in float32: its input stays what the graph has",
            where=f"--io {io}",
            fix="leave --io out; `export --input uint8` makes a graph that takes raw pixels",
        )


def require_opset(onnx: Path, manifest: Manifest, precision: str, target: Target) -> None:
    """Refuse a graph in whose opset the pairs of a quantized precision cannot be written.

    Args:
        onnx: The float32 graph.
        manifest: Its manifest.
        precision: What it is to be typed in.
        target: For what it is typed.

    Raises:
        UsageError: It is; no runtime would take what is written.
    """
    least = precisions.PRECISIONS[precision].smallest_opset
    if target.integers == "pairs" and manifest.opset < least:
        raise UsageError(
            f"the graph is in opset {manifest.opset}; QuantizeLinear takes half precision, and "
            f"gives {precision}, from opset {least} on",
            where=str(onnx),
            fix=f"export the run again with --opset {least}",
        )
