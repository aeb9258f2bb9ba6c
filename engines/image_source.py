"""Many images from a folder or from `.npz` shards, one after the other.

Only what is listed is in memory, and one image at a time: a calibration or an evaluation over
thousands of images takes no more than one over ten.
"""

from __future__ import annotations

import contextlib
import dataclasses
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from engines.decoding import decode
from engines.errors import InputError
from engines.images import SUFFIXES, ImageSet, PixelArray, resize
from engines.manifest import Preprocessing
from engines.registry import import_or_explain


@dataclasses.dataclass(frozen=True)
class Place:
    """Where one image lies: a file, or a row of a shard's `images`."""

    path: Path
    row: int | None = None

    @property
    def name(self) -> str:
        """A name for messages and tables."""
        return self.path.name if self.row is None else f"{self.path.stem}[{self.row}]"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageSource:
    """Images that can be read one by one.

    Attributes:
        places: One an image; the rows of a shard are neighbours and ascend.
        preprocessing: Size, filter and crop.
        description: What they are, in words, for reports.
        labels: (I,) class indices, or None.
        class_names: Names of the classes by index; empty when unknown.
    """

    places: tuple[Place, ...]
    preprocessing: Preprocessing
    description: str
    labels: NDArray[np.int64] | None = None
    class_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.places)

    def spread(self, limit: int) -> ImageSource:
        """Return at most `limit` of the images, spread evenly."""
        return self._chosen(_spread(len(self), limit))

    def halves(self) -> tuple[ImageSource, ImageSource]:
        """Return every second image and the others, so that both have every class."""
        return self._chosen(np.arange(0, len(self), 2)), self._chosen(np.arange(1, len(self), 2))

    def _chosen(self, indices: NDArray[np.int64]) -> ImageSource:
        if len(indices) == len(self):
            return self
        total = self.description.rpartition(" of ")[2]
        return dataclasses.replace(
            self,
            places=tuple(self.places[index] for index in indices),
            description=f"{len(indices)} of {total}",
            labels=None if self.labels is None else self.labels[indices],
        )

    def pixels(self, *, skip: int = 0) -> Iterator[PixelArray]:
        """Yield every image as (height, width, 3) pixels, without the first `skip`.

        Raises:
            InputError: Something is not a whole image.
        """
        pil = import_or_explain("PIL.Image")
        for path, rows in _by_file(self.places[skip:]):
            if rows is None:
                yield resize(decode(path, self.preprocessing).image, self.preprocessing)
                continue
            for image in _shard_rows(path, rows):
                yield resize(pil.fromarray(image), self.preprocessing)


def open_source(
    path: Path, preprocessing: Preprocessing, *, limit: int | None = None
) -> ImageSource:
    """List the images of a file, a folder or `.npz` shards, spread evenly where there are more.

    A folder with sub-folders is one class a sub-folder, in sorted order; a folder of shards is
    all of them. A shard holds `images` (I, h, w, 3) uint8, and optionally `labels` (I,) and
    `class_names` (K,).

    Args:
        path: What to read.
        preprocessing: Size, filter and crop.
        limit: At most this many images; None for all.

    Raises:
        InputError: Nothing is there, or a shard is not what it should be.
    """
    if path.suffix == ".npz":
        return _of_shards([path], path.name, preprocessing, limit)
    if not path.is_dir():
        decode(path, preprocessing)
        return ImageSource(
            places=(Place(path),), preprocessing=preprocessing, description="1 image files"
        )
    shards = sorted(file for file in _visible(path) if file.suffix == ".npz")
    if shards:
        return _of_shards(shards, path.name, preprocessing, limit)
    return _of_folder(path, preprocessing, limit)


def read_set(path: Path, preprocessing: Preprocessing, *, limit: int | None = None) -> ImageSet:
    """Read images into memory; see `open_source`."""
    return collect(open_source(path, preprocessing, limit=limit))


def collect(source: ImageSource) -> ImageSet:
    """Read every image of a source into memory."""
    return ImageSet(
        pixels=np.stack(list(source.pixels())),
        description=source.description,
        labels=source.labels,
        class_names=source.class_names,
        names=tuple(place.name for place in source.places),
    )


def _by_file(places: tuple[Place, ...]) -> Iterator[tuple[Path, list[int] | None]]:
    """Group neighbouring rows of one shard; a file of its own comes alone, with None."""
    rows: list[int] = []
    for index, place in enumerate(places):
        if place.row is None:
            yield place.path, None
            continue
        rows.append(place.row)
        last = index + 1 == len(places) or places[index + 1].path != place.path
        if last:
            yield place.path, rows
            rows = []


def _of_folder(path: Path, preprocessing: Preprocessing, limit: int | None) -> ImageSource:
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
    return ImageSource(
        places=tuple(Place(file) for file, _ in chosen),
        preprocessing=preprocessing,
        description=f"{len(chosen)} of {len(found)} images in {path.name}",
        labels=np.array([label for _, label in chosen], np.int64) if labelled else None,
        class_names=tuple(folder.name for folder in folders) if labelled else (),
    )


def _of_shards(
    paths: list[Path], name: str, preprocessing: Preprocessing, limit: int | None
) -> ImageSource:
    heads = [_read_head(path) for path in paths]
    places = [
        Place(path, row)
        for path, head in zip(paths, heads, strict=True)
        for row in range(head.count)
    ]
    chosen = _spread(len(places), limit)
    labels = None
    if all(head.labels is not None for head in heads):
        labels = np.concatenate([head.labels for head in heads if head.labels is not None])
    names = {head.class_names for head in heads}
    if len(names) > 1:
        raise InputError(
            "the shards do not agree on the names of the classes",
            where=name,
            fix="give shards of one data set",
        )
    return ImageSource(
        places=tuple(places[index] for index in chosen),
        preprocessing=preprocessing,
        description=f"{len(chosen)} of {len(places)} images in {name}",
        labels=None if labels is None else labels[chosen].astype(np.int64),
        class_names=names.pop(),
    )


@dataclasses.dataclass(frozen=True)
class _ShardHead:
    count: int
    labels: NDArray[Any] | None
    class_names: tuple[str, ...]


def _read_head(path: Path) -> _ShardHead:
    """Read everything of a shard but its pixels, and refuse what is not a shard."""
    with _whole_shard(path) as archive:
        names = archive.namelist()
        header = _array_header(archive, "images.npy") if "images.npy" in names else None
        labels = _small_array(archive, "labels.npy") if "labels.npy" in names else None
        classes = _small_array(archive, "class_names.npy") if "class_names.npy" in names else None
    shape, dtype = header or ((), np.dtype(np.uint8))
    checks: list[tuple[Callable[[], bool], str]] = [
        (lambda: header is not None, "there is no array `images`"),
        (lambda: dtype == np.uint8, "`images` is not uint8"),
        (lambda: len(shape) == 4 and shape[-1] == 3, "`images` is not (I, h, w, 3)"),
        (lambda: bool(np.prod(shape)), "`images` is empty"),
        (
            lambda: labels is None or labels.shape == shape[:1],
            "`labels` does not have one entry an image",
        ),
        (lambda: labels is None or labels.dtype.kind in "iu", "`labels` are not whole numbers"),
    ]
    for holds, problem in checks:
        if not holds():
            raise InputError(
                problem, where=str(path), fix="write `images` uint8 (I, h, w, 3) and `labels` (I,)"
            )
    return _ShardHead(
        count=shape[0],
        labels=labels,
        class_names=() if classes is None else tuple(str(name) for name in classes),
    )


def _shard_rows(path: Path, rows: list[int]) -> Iterator[PixelArray]:
    """Yield (h, w, 3) images of ascending rows, reading the shard's pixels once, in order."""
    with _whole_shard(path) as archive, archive.open("images.npy") as file:
        shape, _, dtype = _header_of(file)
        row_bytes = int(np.prod(shape[1:]))
        at = 0
        for row in rows:
            while at < row:
                file.read(row_bytes)
                at += 1
            content = file.read(row_bytes)
            at += 1
            if len(content) != row_bytes:
                raise ValueError(f"row {row} ends early")
            yield np.frombuffer(content, dtype).reshape(shape[1:])


@contextlib.contextmanager
def _whole_shard(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open a shard; what is wrong with its bytes becomes an InputError."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(
            f"this is not a whole .npz shard: {error}",
            where=str(path),
            fix="give an archive with `images` uint8 (I, h, w, 3) and, if known, `labels` (I,)",
        ) from error


def _array_header(archive: zipfile.ZipFile, name: str) -> tuple[tuple[int, ...], np.dtype]:
    with archive.open(name) as file:
        shape, fortran, dtype = _header_of(file)
    if fortran:
        raise ValueError(f"{name} is stored column by column; write a C-ordered array")
    return shape, dtype


def _header_of(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(file)
    read = (
        np.lib.format.read_array_header_1_0
        if version == (1, 0)
        else np.lib.format.read_array_header_2_0
    )
    shape, fortran, dtype = read(file)
    return shape, fortran, dtype


def _small_array(archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    with archive.open(name) as file:
        array: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
        return array


def _images_in(folder: Path) -> list[Path]:
    return sorted(file for file in _visible(folder) if file.suffix.lower() in SUFFIXES)


def _visible(folder: Path) -> list[Path]:
    """Return what is in a folder, less what systems hide there (.ipynb_checkpoints, ._a.jpg)."""
    return [entry for entry in folder.iterdir() if not entry.name.startswith(".")]


def _spread(available: int, limit: int | None) -> NDArray[np.int64]:
    """Return indices spread evenly over what is available, so that no class is left out."""
    count = available if limit is None else min(limit, available)
    return np.arange(count, dtype=np.int64) * available // max(count, 1)
