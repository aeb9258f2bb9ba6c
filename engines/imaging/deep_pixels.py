"""Grey images of 16 or 32 bits or of floats, to 8 bits, by the range that the file states.

Nothing is clipped, and no range is taken from the values that an image happens to hold.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.errors import InputError

MODES = ("I;16", "I;16B", "I;16L", "I;16N", "I", "F")
"""Pillow's modes of more than 8 bits; in colour it keeps the upper 8 of 16 bits itself."""

_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT, _SMALLEST, _LARGEST = 258, 262, 339, 340, 341
_WHITE_IS_ZERO = 0
_SIGNED = 2
_FIX = (
    "write it in 8 bits, black as 0 and white as 255; with numpy: "
    "Image.fromarray((255.0 * pixels / WHITE).round().astype('uint8')).save('NEW.png')"
)


def to_eight_bits(image: Any, values: NDArray[Any], path: Path) -> NDArray[np.uint8]:
    """Return (height, width) grey levels.

    Args:
        image: A loaded Pillow image of one of `MODES`.
        values: (height, width), its pixels.
        path: For a refusal.

    Raises:
        InputError: The file does not say which value is white, or holds others.
    """
    white = _white(image, path)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise InputError("it holds NaN or infinity", where=str(path), fix=_FIX)
    low, high = values.min(), values.max()
    if low < 0 or high > white:
        raise InputError(
            f"its values lie in {low:g}..{high:g}, and those of {_kind(image)} are taken as "
            f"0..{white:g}, black to white; nothing is clipped",
            where=str(path),
            fix=_FIX,
        )
    levels = np.floor(values.astype(np.float64) * (255.0 / white) + 0.5).astype(np.uint8)
    if image.format == "TIFF" and image.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        levels = 255 - levels
    return levels


def refuse_signed(image: Any, path: Path) -> None:
    """Refuse a TIFF of signed bytes, which Pillow reads as unsigned ones: black becomes grey.

    Raises:
        InputError: It is one. Signed pixels of more bits are refused when they become 8.
    """
    if image.format != "TIFF" or image.mode in MODES:
        return
    formats = image.tag_v2.get(_SAMPLE_FORMAT, (1,))
    if _SIGNED in (formats if isinstance(formats, tuple) else (formats,)):
        raise InputError(
            "a signed 8-bit image does not say which values are black and white",
            where=str(path),
            fix=_FIX,
        )


def _white(image: Any, path: Path) -> float:
    """Return the value of white."""
    stated = _stated_range(image) if image.format == "TIFF" else None
    if image.mode.startswith("I;16"):
        if image.format == "TIFF":
            return float(2 ** image.tag_v2.get(_BITS, (16,))[0] - 1)
        return 65535.0
    if image.mode == "I" and image.format in ("PNG", "PPM"):
        return 65535.0  # Pillow's way to hold their 16 bits
    if stated is not None:
        low, high = stated
        if low == 0 and high > 0 and np.log2(high + 1) % 1 == 0:
            return high
        raise InputError(
            f"{_kind(image)} says that its values go from {low:g} to {high:g}, which is not a "
            "range of a number format: whether black and white are there is not known",
            where=str(path),
            fix=_FIX,
        )
    if image.mode == "F":
        return 1.0
    raise InputError(
        f"{_kind(image)} does not say which value is white",
        where=str(path),
        fix=_FIX,
    )


def _stated_range(image: Any) -> tuple[float, float] | None:
    """Return SMinSampleValue and SMaxSampleValue of a TIFF that has both."""
    found = [image.tag_v2.get(tag) for tag in (_SMALLEST, _LARGEST)]
    if None in found:
        return None
    low, high = (float(one[0] if isinstance(one, tuple) else one) for one in found)
    return low, high


def _kind(image: Any) -> str:
    """Return what kind of image it is, with its article."""
    if image.mode == "F":
        return "a floating-point image"
    if image.mode != "I":
        return "a 16-bit image"
    if image.format != "TIFF":
        return "a 32-bit image"
    bits = image.tag_v2.get(_BITS, (32,))[0]
    formats = image.tag_v2.get(_SAMPLE_FORMAT, (1,))
    return f"a {'signed ' if formats[0] == _SIGNED else ''}{bits}-bit image"
