"""Images to input tensors: decoding, resizing and the run's own preprocessing.

Pixels are kept as uint8 (I, height, width, 3) until the last moment, so that every stage, also
one that takes raw bytes, sees exactly the same values. Pillow is imported only when an image has
to be decoded or resized.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.errors import InputError
from engines.imaging.decoding import decode
from engines.imaging.traits import Remark, remarks_on
from engines.manifest import Preprocessing
from engines.plurals import counted
from engines.registry import import_or_explain

PixelArray = NDArray[np.uint8]
_DTYPES = ("float32", "float16", "uint8")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageSet:
    """Preprocessed images.

    Attributes:
        pixels: (I, height, width, 3), RGB, already resized and cropped.
        description: What they are, in words, for reports.
        labels: (I,) class indices, or None.
        class_names: Names of the classes by index; empty when unknown.
        labels_found: How it was found which classes the labels mean, such as "by name"; None
            without labels. See `engines.imaging.class_names`.
        left_out: Files of the set that are not among the images, and why, in words.
        remarks: What some of them have that an ordinary photograph does not.
        names: One name an image.
    """

    pixels: PixelArray
    description: str
    labels: NDArray[np.int64] | None = None
    class_names: tuple[str, ...] = ()
    labels_found: str | None = None
    left_out: tuple[str, ...] = ()
    remarks: tuple[Remark, ...] = ()
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.pixels)

    def in_words(self) -> dict[str, Any]:
        """Return what a `ParityTable` says about its images."""
        return {
            "images": self.description,
            "labels": self.labels_found,
            "left_out": self.left_out,
        }

    def first(self, count: int) -> ImageSet:
        """Return the first `count` images, or all where there are no more."""
        if count >= len(self):
            return self
        return dataclasses.replace(
            self,
            pixels=self.pixels[:count],
            description=f"the first {count} of {self.description}",
            labels=None if self.labels is None else self.labels[:count],
            names=self.names[:count],
        )


def to_input(
    pixels: PixelArray, preprocessing: Preprocessing, *, dtype: str | None = None
) -> NDArray[Any]:
    """Turn (I, height, width, 3) pixels into what a graph takes.

    Args:
        pixels: RGB.
        preprocessing: See Preprocessing.
        dtype: Type of the graph's input, which may be half precision where the preprocessing gives
            float32; None takes the latter's.

    Returns:
        The layout of `preprocessing`; floating pixels are in 0..1, and mean and std are applied
        here, in float32, only where the graph does not.

    Raises:
        InputError: The dtype is none that numpy has everywhere, or the preprocessing gives raw
            pixels and the graph takes floats, or the other way round.
    """
    wanted = _numpy_dtype(dtype or preprocessing.dtype)
    if (wanted == np.uint8) != (preprocessing.dtype == "uint8"):
        raise InputError(
            f"the graph takes {wanted.name} and the preprocessing gives {preprocessing.dtype}",
            where="the manifest",
            fix="export the graph again",
        )
    if preprocessing.dtype == "uint8":
        tensor: NDArray[Any] = pixels
    else:
        tensor = pixels.astype(np.float32) / np.float32(255)
        if not preprocessing.in_graph:
            mean, std = (np.array(v, np.float32) for v in (preprocessing.mean, preprocessing.std))
            tensor = (tensor - mean) / std
    if preprocessing.layout == "NCHW":
        tensor = tensor.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(tensor, dtype=wanted)


def one_grey_level_off(pixels: PixelArray) -> PixelArray:
    """Return a copy of (I, height, width, 3) pixels with one value an image changed by one.

    It is the green of the centre, and the least by which two images can differ.
    """
    changed = pixels.copy()
    centre = changed[:, changed.shape[1] // 2, changed.shape[2] // 2, 1]
    centre[:] = np.where(centre < 128, centre + 1, centre - 1)
    return changed


def _numpy_dtype(name: str) -> np.dtype[Any]:
    if name not in _DTYPES:  # numpy itself knows bfloat16 where another package has registered it
        raise InputError(
            f"the graph takes {name}, pixels are given as {', '.join(_DTYPES)}",
            where="the graph's input",
            fix="quantize the float32 graph with --io fp32",
        )
    return np.dtype(name)


def read_files(paths: Sequence[Path], preprocessing: Preprocessing) -> ImageSet:
    """Decode and preprocess image files."""
    pixels, traits = [], []
    for path in paths:
        found = decode(path, preprocessing)
        pixels.append(resize(found.image, preprocessing))
        traits.append(found.traits)
    return ImageSet(
        pixels=np.stack(pixels),
        description=counted(len(paths), "image file"),
        remarks=remarks_on(traits, preprocessing),
        names=tuple(path.name for path in paths),
    )


def resize(image: Any, preprocessing: Preprocessing) -> PixelArray:
    """Resize an RGB Pillow image, crop its centre, and return (height, width, 3) pixels.

    A crop of 1.0 resizes straight to the size without keeping the aspect ratio; less resizes
    the shorter side to size / crop first. Both round as `Preprocessing.cropping` says, so that
    the pixels are those of an evaluation in PyTorch.
    """
    pil = import_or_explain("PIL.Image")
    methods = getattr(pil, "Resampling", pil)  # Pillow 9.0, of Ubuntu 22.04, has no such
    method = getattr(methods, preprocessing.interpolation.upper())
    height, width = preprocessing.size
    if preprocessing.crop >= 1.0:
        resized = image.resize((width, height), method)
        return np.asarray(resized, dtype=np.uint8)
    cut = centre_cut((image.height, image.width), preprocessing)
    resized = image.resize((cut.between[1], cut.between[0]), method)
    cropped = resized.crop((cut.left, cut.top, cut.left + width, cut.top + height))
    return np.asarray(cropped, dtype=np.uint8)


@dataclasses.dataclass(frozen=True)
class CentreCut:
    """How the centre of an image is cut out.

    Attributes:
        between: (height, width) that the image is resized to first.
        top: First row of it that is kept.
        left: First column of it that is kept.
    """

    between: tuple[int, int]
    top: int
    left: int


def centre_cut(have: tuple[int, int], preprocessing: Preprocessing) -> CentreCut:
    """Return how the centre of an image of `have` (height, width) pixels is cut out.

    A crop of 1.0 keeps all of it.
    """
    if preprocessing.crop >= 1.0:
        return CentreCut(preprocessing.size, top=0, left=0)
    between = _before_crop(have, preprocessing)
    rounded = round if preprocessing.cropping == "torchvision" else math.floor
    top, left = (
        rounded((extent - kept) / 2)
        for extent, kept in zip(between, preprocessing.size, strict=True)
    )
    return CentreCut(between, top=top, left=left)


def _before_crop(have: tuple[int, int], preprocessing: Preprocessing) -> tuple[int, int]:
    """Return the (height, width) that an image is resized to before its centre is cropped."""
    high, wide = (math.floor(extent / preprocessing.crop) for extent in preprocessing.size)
    if preprocessing.cropping == "squashed":
        return high, wide
    if high != wide:  # timm's ResizeKeepRatio
        ratio = min(have[0] / high, have[1] / wide)
        return round(have[0] / ratio), round(have[1] / ratio)
    if have[0] <= have[1]:  # torchvision's Resize of the shorter side
        return high, int(high * have[1] / have[0])
    return int(high * have[0] / have[1]), high
