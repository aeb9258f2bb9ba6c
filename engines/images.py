"""Images to input tensors: the run's own preprocessing, from files, folders or `.npz` shards.

Pixels are kept as uint8 (I, height, width, 3) until the last moment, so that every stage, also
one that takes raw bytes, sees exactly the same values. Pillow is imported only when an image has
to be decoded or resized.
"""

from __future__ import annotations

import dataclasses
import math
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.errors import InputError
from engines.manifest import Preprocessing
from engines.registry import import_or_explain

PixelArray = NDArray[np.uint8]
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageSet:
    """Preprocessed images.

    Attributes:
        pixels: (I, height, width, 3), RGB, already resized and cropped.
        description: What they are, in words, for reports.
        labels: (I,) class indices, or None.
        class_names: Names of the classes by index; empty when unknown.
        names: One name an image.
    """

    pixels: PixelArray
    description: str
    labels: NDArray[np.int64] | None = None
    class_names: tuple[str, ...] = ()
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.pixels)


def to_input(pixels: PixelArray, preprocessing: Preprocessing) -> NDArray[Any]:
    """Turn (I, height, width, 3) pixels into what a graph takes.

    Returns:
        The layout and dtype of `preprocessing`; float32 pixels are in 0..1, and mean and std are
        applied here only where the graph does not.
    """
    if preprocessing.dtype == "uint8":
        tensor: NDArray[Any] = pixels
    else:
        tensor = pixels.astype(np.float32) / np.float32(255)
        if not preprocessing.in_graph:
            mean, std = (np.array(v, np.float32) for v in (preprocessing.mean, preprocessing.std))
            tensor = (tensor - mean) / std
    if preprocessing.layout == "NCHW":
        tensor = tensor.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(tensor)


def read_set(path: Path, preprocessing: Preprocessing, *, limit: int | None = None) -> ImageSet:
    """Read images from a file, a folder or an `.npz` shard, spread evenly where there are more.

    A folder with sub-folders is one class a sub-folder, in sorted order. A shard holds `images`
    (I, h, w, 3) uint8, and optionally `labels` (I,) and `class_names` (K,).

    Args:
        path: What to read.
        preprocessing: Size, filter and crop.
        limit: At most this many images; None for all.

    Raises:
        InputError: Nothing is there, or something is not an image.
    """
    if path.suffix == ".npz":
        return _read_shard(path, preprocessing, limit)
    if path.is_dir():
        return _read_folder(path, preprocessing, limit)
    return read_files([path], preprocessing)


def read_files(paths: Sequence[Path], preprocessing: Preprocessing) -> ImageSet:
    """Decode and preprocess image files."""
    pixels = np.stack([resize(_decode(path), preprocessing) for path in paths])
    names = tuple(path.name for path in paths)
    return ImageSet(pixels=pixels, description=f"{len(paths)} image files", names=names)


def resize(image: Any, preprocessing: Preprocessing) -> PixelArray:
    """Resize a Pillow image, crop its centre, and return (height, width, 3) pixels.

    A crop of 1.0 resizes straight to the size without keeping the aspect ratio; less resizes
    the shorter side to size / crop first. Both round as torchvision and timm do, so that the
    pixels are those of an evaluation in PyTorch.
    """
    pil = import_or_explain("PIL.Image")
    image = image.convert("RGB")
    method = getattr(pil.Resampling, preprocessing.interpolation.upper())
    height, width = preprocessing.size
    if preprocessing.crop >= 1.0:
        resized = image.resize((width, height), method)
        return np.asarray(resized, dtype=np.uint8)
    between = _before_crop((image.height, image.width), preprocessing)
    resized = image.resize((between[1], between[0]), method)
    top, left = round((between[0] - height) / 2), round((between[1] - width) / 2)
    cropped = resized.crop((left, top, left + width, top + height))
    return np.asarray(cropped, dtype=np.uint8)


def _before_crop(have: tuple[int, int], preprocessing: Preprocessing) -> tuple[int, int]:
    """Return the (height, width) that an image is resized to before its centre is cropped."""
    high, wide = (math.floor(extent / preprocessing.crop) for extent in preprocessing.size)
    if high != wide:  # timm's ResizeKeepRatio
        ratio = min(have[0] / high, have[1] / wide)
        return round(have[0] / ratio), round(have[1] / ratio)
    if have[0] <= have[1]:  # torchvision's Resize of the shorter side
        return high, int(high * have[1] / have[0])
    return int(high * have[0] / have[1]), high


def _decode(path: Path) -> Any:
    pil = import_or_explain("PIL.Image")
    if not path.is_file():
        raise InputError("there is no such image", where=str(path), fix="check the path")
    try:
        with pil.open(path) as image:
            return image.convert("RGB")
    except (OSError, ValueError, SyntaxError, pil.DecompressionBombError) as error:
        raise InputError(
            f"this is not a whole image: {error}",
            where=str(path),
            fix=f"give one of {', '.join(SUFFIXES)}",
        ) from error


def _read_folder(path: Path, preprocessing: Preprocessing, limit: int | None) -> ImageSet:
    folders = sorted(entry for entry in _visible(path) if entry.is_dir())
    found: list[tuple[Path, int]] = []
    for label, folder in enumerate(folders):
        found += [(file, label) for file in _images_in(folder)]
    labelled = bool(found)
    if not labelled:
        found = [(file, -1) for file in _images_in(path)]
    if not found:
        raise InputError(
            "there is no image in this folder",
            where=str(path),
            fix="give a folder of images, or one sub-folder a class",
        )
    chosen = [found[index] for index in _spread(len(found), limit)]
    files = read_files([file for file, _ in chosen], preprocessing)
    return dataclasses.replace(
        files,
        description=f"{len(chosen)} of {len(found)} images in {path.name}",
        labels=np.array([label for _, label in chosen], np.int64) if labelled else None,
        class_names=tuple(folder.name for folder in folders) if labelled else (),
    )


def _images_in(folder: Path) -> list[Path]:
    return sorted(file for file in _visible(folder) if file.suffix.lower() in SUFFIXES)


def _visible(folder: Path) -> list[Path]:
    """Return what is in a folder, less what systems hide there (.ipynb_checkpoints, ._a.jpg)."""
    return [entry for entry in folder.iterdir() if not entry.name.startswith(".")]


def _spread(available: int, limit: int | None) -> NDArray[np.int64]:
    """Return indices spread evenly over what is available, so that no class is left out."""
    count = available if limit is None else min(limit, available)
    return np.arange(count, dtype=np.int64) * available // max(count, 1)


def _read_shard(path: Path, preprocessing: Preprocessing, limit: int | None) -> ImageSet:
    try:
        with zipfile.ZipFile(path):  # a single array would be loaded too, and is no archive
            pass
        with np.load(path, allow_pickle=False) as shard:
            arrays = {name: np.asarray(shard[name]) for name in shard.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(
            f"this is not a whole .npz shard: {error}",
            where=str(path),
            fix="give an archive with `images` uint8 (I, h, w, 3) and, if known, `labels` (I,)",
        ) from error
    images, labels = arrays.get("images"), arrays.get("labels")
    checks: list[tuple[Callable[[], bool], str]] = [
        (lambda: images is not None, "there is no array `images`"),
        (lambda: images is not None and images.dtype == np.uint8, "`images` is not uint8"),
        (
            lambda: images is not None and images.ndim == 4 and images.shape[-1] == 3,
            "`images` is not (I, h, w, 3)",
        ),
        (lambda: images is not None and images.size > 0, "`images` is empty"),
        (
            lambda: labels is None or (images is not None and labels.shape == (len(images),)),
            "`labels` does not have one entry an image",
        ),
        (lambda: labels is None or labels.dtype.kind in "iu", "`labels` are not whole numbers"),
    ]
    for holds, problem in checks:
        if not holds():
            raise InputError(
                problem, where=str(path), fix="write `images` uint8 (I, h, w, 3) and `labels` (I,)"
            )
    assert images is not None
    pil = import_or_explain("PIL.Image")
    chosen = _spread(len(images), limit)
    pixels = np.stack([resize(pil.fromarray(images[i]), preprocessing) for i in chosen])
    return ImageSet(
        pixels=pixels,
        description=f"{len(chosen)} of {len(images)} images in {path.name}",
        labels=None if labels is None else labels[chosen].astype(np.int64),
        class_names=tuple(str(name) for name in arrays.get("class_names", ())),
        names=tuple(f"{path.stem}[{index}]" for index in chosen),
    )
