"""An image file to 8-bit RGB pixels: orientation, transparency, and more than 8 bits a channel.

Pillow's own `convert("RGB")` ignores the EXIF orientation, drops transparency, and turns almost
every pixel of a 16-bit, 32-bit or float image white. What is done here instead, and what is refused
because a file does not say what its values mean, is in docs/pixels.md.
"""

from __future__ import annotations

import contextlib
import dataclasses
import struct
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from engines.errors import InputError
from engines.imaging import deep_pixels
from engines.imaging.not_images import what_it_is
from engines.imaging.traits import BAD_EXIF, DEEP, FRAMES, ORIENTATION, TRANSPARENT
from engines.manifest import Preprocessing
from engines.registry import import_or_explain

_ORIENTATION_TAG = 0x0112
_BAD_METADATA = (
    OSError, SyntaxError, ValueError, LookupError, TypeError, AttributeError, EOFError,
    ArithmeticError, struct.error,
)  # fmt: skip
_TURNS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
_DRAWINGS = ("EPS", "WMF")
"""Formats that Pillow renders by other programs, at a size that nobody chose."""

_GREY_STEPS = {"1": 255, "L;2": 85, "L;4": 17}
"""Grey levels of one step of a PNG's own transparent grey, by Pillow's name of its bits."""


@dataclasses.dataclass(frozen=True)
class Decoded:
    """An image as it is resized.

    Attributes:
        image: A Pillow image of mode RGB.
        traits: What an ordinary photograph does not have; see `engines.imaging.traits`.
    """

    image: Any
    traits: frozenset[str]


def decode(path: Path, preprocessing: Preprocessing) -> Decoded:
    """Decode an image file, the first frame of several.

    Args:
        path: The file.
        preprocessing: Its `decode` and `background` count here.

    Raises:
        InputError: There is no such file, it is not a whole image, or it does not say what its
            values mean.
        MissingDependencyError: Pillow is not installed.
    """
    pil = import_or_explain("PIL.Image")
    if path.is_dir():
        raise InputError(
            f"{path} is a folder, wanted an image", where=str(path), fix="name one image in it"
        )
    if not path.is_file():
        raise InputError("there is no such image", where=str(path), fix="check the path")
    with _refusals(path, pil), _without_warnings(), pil.open(path) as image:
        if image.format in _DRAWINGS:
            raise InputError(
                f"this is a drawing ({image.format}), not pixels",
                where=str(path),
                fix="render it to PNG first, at the size that you want",
            )
        deep_pixels.refuse_signed(image, path)
        raw = _raw_mode(image)
        traits = _traits_before_loading(image, raw)
        image.load()
        if not image.width or not image.height:
            raise ValueError("it has no pixels")
        turn = _turn(image, traits)
        is_full = preprocessing.decode == "full"
        shallow, alpha, is_deep = _eight_bits(image, raw, path, full=is_full)
        flat = _rgb(shallow)
        if is_deep:
            traits.add(DEEP)
        if alpha is not None and alpha.getextrema()[0] < 255:
            traits.add(TRANSPARENT)
            if is_full:
                canvas = pil.new("RGB", flat.size, preprocessing.background)
                canvas.paste(flat, mask=alpha)
                flat = canvas
        if turn is not None and is_full:
            methods = getattr(pil, "Transpose", pil)  # Pillow 9.0, of Ubuntu 22.04, has no such
            flat = flat.transpose(getattr(methods, turn))
        return Decoded(flat, frozenset(traits))


@contextlib.contextmanager
def _refusals(path: Path, pil: Any) -> Iterator[None]:
    """Turn whatever a decoder makes of a damaged file into an InputError."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except pil.DecompressionBombError as error:
        raise InputError(
            f"the image is too large: {error}",
            where=str(path),
            fix="make it smaller first; Pillow refuses to decode an image of this size",
        ) from error
    except Exception as error:  # decoders raise what they like: struct.error, IndexError, ...
        found = what_it_is(path)
        if found is not None:
            raise InputError(found.what, where=str(path), fix=found.fix) from error
        raise InputError(
            f"this is not a whole image: {error or type(error).__name__}",
            where=str(path),
            fix="replace it or leave it out: other programs may show a part of it",
        ) from error


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Silence Pillow's remarks: what matters of them is a trait or a refusal here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _raw_mode(image: Any) -> str:
    """Return Pillow's name of how the pixels lie in the file, "" where it has none."""
    if not image.tile:
        return ""
    arguments = image.tile[0][3]
    if isinstance(arguments, tuple):
        if image.format == "PPM" and arguments[1:] and arguments[1] > 255:
            return f"{arguments[0]};16"
        arguments = arguments[0] if arguments else ""
    return arguments if isinstance(arguments, str) else ""


def _traits_before_loading(image: Any, raw: str) -> set[str]:
    """Return the traits that Pillow forgets when it decodes."""
    traits = set()
    if ";16" in raw:
        traits.add(DEEP)
    if getattr(image, "is_animated", False) and image.format != "MPO":
        traits.add(FRAMES)
    return traits


def _turn(image: Any, traits: set[str]) -> str | None:
    """Return Pillow's name of how a loaded image is to be turned, and add what that says of it."""
    if image.format == "TIFF":
        return None  # Pillow has always turned these itself, in `convert("RGB")` too
    try:
        turn = _TURNS.get(image.getexif().get(_ORIENTATION_TAG, 1))
    except _BAD_METADATA:
        traits.add(BAD_EXIF)
        return None
    if turn is not None:
        traits.add(ORIENTATION)
    return turn


def _eight_bits(image: Any, raw: str, path: Path, *, full: bool) -> tuple[Any, Any | None, bool]:
    """Return a loaded image with 8 bits a channel, its alpha or None, and if it had more bits.

    Args:
        image: As Pillow loads it.
        raw: See `_raw_mode`.
        path: For a refusal.
        full: Whether the alpha is used, or only looked at.
    """
    pil = import_or_explain("PIL.Image")
    hidden = image.info.get("transparency")
    if image.mode in deep_pixels.MODES:
        values = np.asarray(image)
        grey = pil.fromarray(deep_pixels.to_eight_bits(image, values, path))
        alpha = None if hidden is None else _visible(values != hidden)
        return grey, alpha, True
    if image.mode in ("RGBa", "La"):
        image = image.convert(image.mode.upper())
    if image.mode in ("RGBA", "LA", "PA"):
        return image, image.getchannel("A"), False
    if image.mode == "P":
        if hidden is not None or image.palette.mode.endswith("A"):
            return image, image.convert("RGBA").getchannel("A"), False
        return image, None, False
    if hidden is None or image.mode not in ("1", "L", "RGB"):
        return image, None, False
    if ";16" in raw:
        if not full:  # which pixels it hides makes no difference
            return image, _visible(np.zeros((image.height, image.width), bool)), False
        raise InputError(
            f"the 16-bit colour {hidden} is transparent, and Pillow keeps 8 of the 16 bits, so "
            "that nobody can tell its pixels from others",
            where=str(path),
            fix="give it an alpha channel, for example: convert IN.png -define png:format=png32 "
            "OUT.png",
        )
    if image.mode == "RGB":
        return image, _visible((np.asarray(image) != np.array(hidden)).any(axis=-1)), False
    level = min(hidden * _GREY_STEPS.get(raw, 1), 255)
    return image, _visible(np.asarray(image.convert("L")) != level), False


def _visible(mask: Any) -> Any:
    """Return a Pillow mask that shows the pixels where (height, width) `mask` holds."""
    pil = import_or_explain("PIL.Image")
    return pil.fromarray(np.where(mask, 255, 0).astype(np.uint8))


def _rgb(image: Any) -> Any:
    """Return an image without its transparency, in RGB."""
    image.info.pop("transparency", None)
    return image.convert("RGB")
