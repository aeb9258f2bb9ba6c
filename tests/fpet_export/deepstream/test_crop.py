"""The part of a frame that is cut out is the part that the preprocessing keeps."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from engines.imaging.images import resize
from engines.manifest import Cropping, Preprocessing
from fpet_export.deepstream.crop import seen


def preprocessing(crop: float, cropping: Cropping, size: tuple[int, int]) -> Preprocessing:
    return Preprocessing(
        size=size, interpolation="bilinear", crop=crop, cropping=cropping, decode="full",
        background=(255, 255, 255), mean=(0, 0, 0), std=(1, 1, 1),
    )  # fmt: skip


def ramp(wide: int, high: int) -> Image.Image:
    """A picture whose red says the column and whose green says the row."""
    pixels = np.zeros((high, wide, 3), np.uint8)
    pixels[..., 0] = np.linspace(0, 255, wide).round()[None, :]
    pixels[..., 1] = np.linspace(0, 255, high).round()[:, None]
    return Image.fromarray(pixels)


@pytest.mark.parametrize("frame", [(1920, 1080), (1080, 1920), (640, 480), (512, 512)])
@pytest.mark.parametrize("cropping", ["torchvision", "transformers", "squashed"])
@pytest.mark.parametrize(
    ("crop", "size"), [(0.875, (224, 224)), (0.5, (96, 96)), (0.9, (224, 448))]
)
def test_the_box_shows_what_the_preprocessing_keeps(
    frame: tuple[int, int], cropping: Cropping, crop: float, size: tuple[int, int]
) -> None:
    how, picture = preprocessing(crop, cropping, size), ramp(*frame)
    wanted = resize(picture, how).astype(int)

    box = seen(frame, how)

    part = picture.crop((box.left, box.top, box.left + box.width, box.top + box.height))
    shown = np.asarray(part.resize(size[::-1], Image.Resampling.BILINEAR)).astype(int)
    whole = np.asarray(picture.resize(size[::-1], Image.Resampling.BILINEAR)).astype(int)
    assert box.left >= 0 and box.left + box.width <= frame[0]
    assert box.top >= 0 and box.top + box.height <= frame[1]
    assert all(value % 2 == 0 for value in (box.left, box.top, box.width, box.height))
    assert np.abs(shown - wanted).max() <= 3  # levels: two pixels of rounding, and edges
    assert np.abs(whole - wanted).max() >= 8  # the control


def test_without_a_crop_all_of_it_is_seen() -> None:
    box = seen((641, 480), preprocessing(1.0, "torchvision", (224, 224)))
    assert (box.left, box.top, box.width, box.height) == (0, 0, 641, 480)
