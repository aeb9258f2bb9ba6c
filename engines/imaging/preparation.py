"""What happens to an image file before the graph sees it, in words."""

from __future__ import annotations

from engines.manifest import Preprocessing


def preparation_in_words(preprocessing: Preprocessing) -> str:
    """Return one line, such as "RGB as stored · bicubic to 32x32 · float32 0..1, NCHW"."""
    values = "uint8 0..255" if preprocessing.dtype == "uint8" else "float32 0..1"
    if not preprocessing.in_graph:
        mean, std = (
            ",".join(f"{value:g}" for value in triple)
            for triple in (preprocessing.mean, preprocessing.std)
        )
        values = f"float32, less mean {mean}, over std {std}"
    return f"{pixels_in_words(preprocessing)} · {values}, {preprocessing.layout}"


def pixels_in_words(preprocessing: Preprocessing) -> str:
    """Return which pixels a file becomes, such as "RGB as stored (plain) · bicubic to 32x32"."""
    return f"{decoding_in_words(preprocessing)} · {resizing_in_words(preprocessing)}"


def resizing_in_words(preprocessing: Preprocessing) -> str:
    """Return how an image gets its size, such as "bicubic, the centre 0.9 of it as 224x224"."""
    height, width = preprocessing.size
    how = preprocessing.interpolation
    if preprocessing.crop >= 1.0:
        return f"{how} to {height}x{width}"
    squashed = " to a square" if preprocessing.cropping == "squashed" else ""
    return f"{how}{squashed}, the centre {preprocessing.crop:g} of it as {height}x{width}"


def decoding_in_words(preprocessing: Preprocessing) -> str:
    """Return how a file becomes RGB, such as "RGB turned by EXIF, on 255,255,255 (full)"."""
    if preprocessing.decode == "plain":
        return "RGB as stored (plain)"
    colour = ",".join(map(str, preprocessing.background))
    return f"RGB turned by EXIF, on {colour} (full)"
