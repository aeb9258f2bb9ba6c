"""Mean and std of the pixels: their usual names, and numbers written out."""

from __future__ import annotations

import math

Triple = tuple[float, float, float]

NORMALISATIONS: dict[str, tuple[Triple, Triple]] = {
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
}
"""Names to mean and std of RGB pixels in 0..1: ImageNet's, Google's 0.5, and OpenAI CLIP's."""


def parse(text: str) -> tuple[Triple, Triple]:
    """Return mean and std of a name in `NORMALISATIONS` or of "M,M,M/S,S,S".

    Raises:
        ValueError: It is neither; the message says what was wanted.
    """
    if text in NORMALISATIONS:
        return NORMALISATIONS[text]
    try:
        mean, std = (_triple(part.split(",")) for part in text.split("/"))
    except ValueError:
        names = ", ".join(NORMALISATIONS)
        raise ValueError(
            f"{text!r} is none of {names}, and not MEAN/STD as 0.5,0.5,0.5/0.25,0.25,0.25"
        ) from None
    if any(value <= 0 for value in std):
        raise ValueError(f"{text!r} has a standard deviation that is not above 0")
    if are_of_bytes(mean, std):
        raise ValueError(
            f"{text!r} is for pixels in 0..255; for pixels in 0..1 that is {of_bytes(mean, std)}"
        )
    return mean, std


def are_of_bytes(mean: Triple, std: Triple) -> bool:
    """Whether numbers are for pixels in 0..255: those in 0..1 have no mean above 1."""
    return max(mean) > 1 or min(std) > 10


def of_bytes(mean: Triple, std: Triple) -> str:
    """Return mean and std of pixels in 0..255 as those of pixels in 0..1, as `parse` reads it."""
    return "/".join(",".join(f"{value / 255:.6g}" for value in part) for part in (mean, std))


def name_of(mean: Triple, std: Triple) -> str:
    """Return what `parse` reads back as these numbers; a name where there is one."""
    for name, values in NORMALISATIONS.items():
        if values == (mean, std):
            return name
    return "/".join(",".join(f"{value:.9g}" for value in part) for part in (mean, std))


def _triple(values: list[str]) -> Triple:
    red, green, blue = (float(value) for value in values)
    if not all(map(math.isfinite, (red, green, blue))):
        raise ValueError("not finite")
    return red, green, blue
