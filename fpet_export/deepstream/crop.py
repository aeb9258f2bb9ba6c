"""Which part of a video's frames the network is to see.

The preprocessing of a run may cut out the centre of an image. Gst-nvinfer scales the whole frame to
the network's size, so the same part must be cut out before: `src-crop` of Gst-nvvideoconvert.
"""

from __future__ import annotations

import dataclasses

from engines.imaging.images import centre_cut
from engines.manifest import Preprocessing


@dataclasses.dataclass(frozen=True)
class Box:
    """A part of a frame, in its pixels."""

    left: int
    top: int
    width: int
    height: int

    def in_words(self) -> str:
        """Return it as `src-crop` takes it."""
        return f"{self.left}:{self.top}:{self.width}:{self.height}"


def seen(frame: tuple[int, int], preprocessing: Preprocessing) -> Box:
    """Return the part of a frame that the preprocessing keeps.

    Left, top, width and height are rounded to even numbers, because decoded frames have one colour
    for two pixels by two; so the box is off by one pixel at most.

    Args:
        frame: (width, height) of the video.
        preprocessing: Of the run.
    """
    wide, high = frame
    cut = centre_cut((high, wide), preprocessing)
    if preprocessing.crop >= 1.0:
        return Box(0, 0, wide, high)
    down, across = high / cut.between[0], wide / cut.between[1]
    height, width = preprocessing.size
    return Box(
        left=_even(cut.left * across),
        top=_even(cut.top * down),
        width=_even(width * across),
        height=_even(height * down),
    )


def _even(value: float) -> int:
    return 2 * round(value / 2)
