"""What some image files have and an ordinary photograph does not, and what was done with it."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable
from typing import Any

from engines.manifest import Preprocessing

ORIENTATION = "orientation"
"""An EXIF orientation that turns or mirrors the image."""
TRANSPARENT = "transparent"
"""Pixels that are transparent, at least in part."""
DEEP = "deep"
"""More than 8 bits a channel."""
FRAMES = "frames"
"""More than one frame or page; the further images of an MPO photograph do not count."""
BAD_EXIF = "bad-exif"
"""EXIF data that cannot be read, so that nobody knows the orientation."""

_HAVE = {
    ORIENTATION: ("carries an EXIF orientation", "carry an EXIF orientation"),
    TRANSPARENT: ("has transparent pixels", "have transparent pixels"),
    DEEP: ("has more than 8 bits a channel", "have more than 8 bits a channel"),
    FRAMES: ("has more than one frame", "have more than one frame"),
    BAD_EXIF: ("has EXIF data that cannot be read", "have EXIF data that cannot be read"),
}
_DONE = {
    DEEP: "reduced to 8, by the range of the number format",
    FRAMES: "the first one is taken",
    BAD_EXIF: "taken as upright",
}
_PLAIN = {
    ORIENTATION: "decode plain ignores it, as the authors' code does (export with --decode full "
    "to apply it)",
    TRANSPARENT: "decode plain shows what lies hidden there, as the authors' code does (export "
    "with --decode full to lay them on a background)",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Remark:
    """What some images of a set have, and what was done with it.

    Attributes:
        trait: ORIENTATION or another one above.
        images: How many images have it.
        total: Number of images in all.
        done: What was done, in words.
    """

    trait: str
    images: int
    total: int
    done: str

    def in_words(self) -> str:
        """Return one sentence, such as "3 of 40 images carry an EXIF orientation: ..."."""
        noun = "image" if self.total == 1 else "images"
        have = _HAVE[self.trait][0 if self.images == 1 else 1]
        return f"{self.images} of {self.total} {noun} {have}: {self.done}"

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return dataclasses.asdict(self)


def remarks_on(
    traits: Iterable[frozenset[str]], preprocessing: Preprocessing
) -> tuple[Remark, ...]:
    """Return what is to be said about a set.

    Args:
        traits: What each of its images has that ordinary photographs lack.
        preprocessing: By which they were decoded.
    """
    every = list(traits)
    counts = collections.Counter(trait for found in every for trait in found)
    done = {**_DONE, **_PLAIN}
    if preprocessing.decode == "full":
        colour = ",".join(map(str, preprocessing.background))
        done[ORIENTATION] = "turned upright (decode full)"
        done[TRANSPARENT] = f"laid on the background {colour} (decode full)"
    return tuple(
        Remark(trait=trait, images=counts[trait], total=len(every), done=done[trait])
        for trait in _HAVE
        if counts[trait]
    )
