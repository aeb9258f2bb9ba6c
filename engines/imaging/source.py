"""Many images from a folder, a list, a table or `.npz` shards, one after the other.

Only what is listed is in memory, one image at a time, and the first `MOST_KEPT_BYTES` of what was
looked at: a calibration over thousands of images takes no more than one over some hundreds.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from engines.errors import InputError
from engines.imaging.class_names import KnownClasses, Stated, match, names_without_labels
from engines.imaging.decoding import decode
from engines.imaging.files import (
    Skipped,
    list_images,
    list_shards,
    ordered,
    require_opener,
    shortened,
)
from engines.imaging.images import ImageSet, PixelArray, resize
from engines.imaging.lists import LISTS, TABLES, read_list
from engines.imaging.shards import read_heads, rows_of
from engines.imaging.traits import Remark, remarks_on
from engines.manifest import Preprocessing
from engines.plurals import counted
from engines.registry import import_or_explain


@dataclasses.dataclass(frozen=True)
class ImageLocation:
    """Where one image lies: a file, or a row of a shard's `images`."""

    path: Path
    row: int | None = None

    @property
    def name(self) -> str:
        """A name for messages and tables."""
        return self.path.name if self.row is None else f"{self.path.stem}[{self.row}]"


MOST_KEPT_BYTES = 64_000_000
"""Of pixels between `ImageSource.readable` and their use: 425 images of 224 x 224."""


class DecodedImages(NamedTuple):
    """Images that were decoded already, by file, with what each has.

    `preprocessing` is how; with another one they count for nothing.
    """

    preprocessing: Preprocessing | None
    images: Mapping[Path, tuple[PixelArray, frozenset[str]]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageSource:
    """Images that can be read one by one.

    Attributes:
        locations: One an image; the rows of a shard are neighbours and ascend.
        preprocessing: Size, filter and crop.
        name: What they are called in reports.
        seen: Images that were found, with those that were not chosen or left out.
        stated: What the set says about classes, by its own words; None without labels.
        skipped: Files that were left out.
        unreadable: Images that were left out because they could not be read.
        traits: What each image has that ordinary photographs lack; empty before `readable`.
        labels: (I,) classes; of a model only after `matched`. None without labels.
        class_names: Names of the classes by index; empty when unknown.
        labels_found: How `labels` were found; None as above.
        cache: What `readable` decoded, up to `MOST_KEPT_BYTES`; see `decoded`.
    """

    locations: tuple[ImageLocation, ...]
    preprocessing: Preprocessing
    name: str
    seen: int
    stated: Stated | None = None
    skipped: tuple[Skipped, ...] = ()
    unreadable: tuple[str, ...] = ()
    traits: tuple[frozenset[str], ...] = ()
    labels: NDArray[np.int64] | None = None
    class_names: tuple[str, ...] = ()
    labels_found: str | None = None
    cache: DecodedImages = dataclasses.field(
        default_factory=lambda: DecodedImages(None, {}), repr=False, compare=False
    )

    def __len__(self) -> int:
        return len(self.locations)

    @property
    def description(self) -> str:
        """What they are, in words, for reports."""
        return f"{len(self)} of {counted(self.seen, 'image')} in {self.name}"

    def left_out(self) -> tuple[str, ...]:
        """Return what was left out and why, in words."""
        found = [one.in_words() for one in self.skipped]
        if self.unreadable:
            found.append(f"{len(self.unreadable)} unreadable ({shortened(self.unreadable, 4)})")
        return tuple(found)

    def remarks(self) -> tuple[Remark, ...]:
        """Return what some of the images have, and what is done with it; none before `readable`."""
        return remarks_on(self.traits, self.preprocessing)

    def matched(self, known: KnownClasses) -> ImageSource:
        """Return the source with its labels as classes of a model; without, where it has none.

        Raises:
            InputError: See `engines.imaging.class_names.match`.
        """
        if known.count == 0:
            return dataclasses.replace(
                self, stated=None, labels=None, class_names=(), labels_found=None
            )
        if self.stated is None:
            own = KnownClasses(names=self.class_names, source=f"`class_names` of {self.name}")
            return dataclasses.replace(self, class_names=names_without_labels(known, own))
        found = match(self.stated, known)
        return dataclasses.replace(
            self, labels=found.labels, class_names=found.names, labels_found=found.found
        )

    def spread(self, limit: int) -> ImageSource:
        """Return at most `limit` of the images, spread evenly."""
        return self._chosen(_spread(len(self), limit))

    def halves(self) -> tuple[ImageSource, ImageSource]:
        """Return every second image and the others, so that both have every class."""
        return self._chosen(np.arange(0, len(self), 2)), self._chosen(np.arange(1, len(self), 2))

    def parts(self, count: int) -> Iterator[ImageSource]:
        """Yield `count` images at a time, in order."""
        for start in range(0, len(self), count):
            yield self._chosen(np.arange(start, min(start + count, len(self))))

    def readable(self, *, skip_bad: bool = False) -> ImageSource:
        """Decode every file, and return the source without those that cannot be read.

        What was decoded is kept for `pixels`, as long as it is little.

        Args:
            skip_bad: Leave them out; else the first ones are named and all are refused.

        Raises:
            InputError: An image cannot be read and `skip_bad` is not given, or none can be read.
        """
        errors = {}
        traits: list[frozenset[str]] = [frozenset()] * len(self)
        stored: dict[Path, tuple[PixelArray, frozenset[str]]] = {}
        room = MOST_KEPT_BYTES
        for index, location in enumerate(self.locations):
            if location.row is None:
                try:
                    found = decode(location.path, self.preprocessing)
                    traits[index] = found.traits
                    if room > 0:
                        pixels = resize(found.image, self.preprocessing)
                        stored[location.path] = pixels, found.traits
                        room -= pixels.nbytes
                except InputError as error:
                    errors[index] = error
        looked = dataclasses.replace(
            self, traits=tuple(traits), cache=DecodedImages(self.preprocessing, stored)
        )
        if not errors:
            return looked
        first = next(iter(errors.values()))
        names = [str(self.locations[index].path) for index in errors]
        if skip_bad and len(errors) < len(self):
            kept = np.array([i for i in range(len(self)) if i not in errors], np.int64)
            chosen = looked._chosen(kept)
            return dataclasses.replace(chosen, unreadable=(*self.unreadable, *names))
        if len(errors) == 1 and len(self) == 1:
            raise first
        shown = "".join(f"\n  {error.where}: {error.what}" for error in [*errors.values()][:5])
        more = f"\n  and {len(errors) - 5} more" if len(errors) > 5 else ""
        raise InputError(
            f"{len(errors)} of {len(self)} images cannot be read:{shown}{more}",
            where=first.where,
            fix="none can be read: check the set"
            if len(errors) == len(self)
            else "repair or remove them, or go on without them: --skip-bad",
        )

    def _chosen(self, indices: NDArray[np.int64]) -> ImageSource:
        if len(indices) == len(self):
            return self
        stated = self.stated
        return dataclasses.replace(
            self,
            locations=tuple(self.locations[index] for index in indices),
            stated=stated and dataclasses.replace(stated, index=stated.index[indices]),
            traits=tuple(self.traits[index] for index in indices) if self.traits else (),
            labels=None if self.labels is None else self.labels[indices],
        )

    def pixels(self, *, skip: int = 0) -> Iterator[PixelArray]:
        """Yield every image as (height, width, 3) pixels, without the first `skip`.

        Raises:
            InputError: Something is not a whole image.
        """
        return (pixels for pixels, _ in self.decoded(skip=skip))

    def decoded(self, *, skip: int = 0) -> Iterator[tuple[PixelArray, frozenset[str]]]:
        """Yield the same with what each file has; see `engines.imaging.traits`."""
        pil = import_or_explain("PIL.Image")
        kept = self.cache.images if self.cache.preprocessing == self.preprocessing else {}
        for path, rows in _by_file(self.locations[skip:]):
            if rows is None and path in kept:
                yield kept[path]
                continue
            if rows is None:
                found = decode(path, self.preprocessing)
                yield resize(found.image, self.preprocessing), found.traits
                continue
            for image in rows_of(path, rows):
                yield resize(pil.fromarray(image), self.preprocessing), frozenset()


def open_source(
    path: Path, preprocessing: Preprocessing, *, limit: int | None = None
) -> ImageSource:
    """List the images of a file, a folder, a list or `.npz` shards, spread evenly.

    See docs/data.md. Labels are what the set alone says, its indices or the order of its names;
    `ImageSource.matched` finds the classes of a model.

    Args:
        path: What to read.
        preprocessing: Size, filter and crop.
        limit: At most this many images; None for all.

    Raises:
        InputError: Nothing is there, or a part is not what it should be.
        UsageError: A list is no text.
    """
    source = _opened(path, preprocessing)
    with contextlib.suppress(InputError):  # `matched` says what is wrong, if anybody asks
        source = source.matched(KnownClasses())
    return source if limit is None else source.spread(limit)


def open_files(paths: Sequence[Path], preprocessing: Preprocessing) -> ImageSource:
    """List image files, and all that lie below folders, without labels; see `list_images`.

    Raises:
        InputError: There is no image in a folder.
        MissingDependencyError: A format needs a package that is not installed.
    """
    files: list[Path] = []
    skipped: list[Skipped] = []
    for path in paths:
        if not path.is_dir():
            require_opener(path)
            files.append(path)
            continue
        listing = list_images(path, with_classes=False)
        files += listing.files
        skipped += listing.skipped
    return ImageSource(
        locations=tuple(ImageLocation(file) for file in files),
        preprocessing=preprocessing,
        name=", ".join(_name(path) for path in paths[:2]) + (", …" if len(paths) > 2 else ""),
        seen=len(files) + sum(one.count for one in skipped if one.are_images),
        skipped=tuple(skipped),
    )


def read_set(
    path: Path,
    preprocessing: Preprocessing,
    *,
    limit: int | None = None,
    known: KnownClasses | None = None,
) -> ImageSet:
    """Read images into memory, with labels as classes of a model; see `open_source`."""
    source = open_source(path, preprocessing, limit=limit).readable()
    return collect(source.matched(known or KnownClasses()))


def collect(source: ImageSource) -> ImageSet:
    """Read every image of a source into memory."""
    pixels, traits = zip(*source.decoded(), strict=True)
    return ImageSet(
        pixels=np.stack(pixels),
        description=source.description,
        labels=source.labels,
        class_names=source.class_names,
        labels_found=source.labels_found,
        left_out=source.left_out(),
        remarks=remarks_on(traits, source.preprocessing),
        names=tuple(location.name for location in source.locations),
    )


def no_such_set(path: Path) -> InputError:
    """Return the error of a set that is not there."""
    return InputError(
        "there is no such image, folder, list or .npz", where=str(path), fix="check the path"
    )


def _opened(path: Path, preprocessing: Preprocessing) -> ImageSource:
    if not path.exists():
        raise no_such_set(path)
    suffix = path.suffix.lower()
    if path.is_dir():
        shards, beside = list_shards(path)
        if shards:
            return _of_shards(shards, path, preprocessing, beside)
        return _of_folder(path, preprocessing)
    if suffix == ".npz":
        return _of_shards([path], path, preprocessing)
    if suffix in (*LISTS, *TABLES):
        return _of_list(path, preprocessing)
    require_opener(path)
    decode(path, preprocessing)
    return ImageSource(
        locations=(ImageLocation(path),), preprocessing=preprocessing, name=path.name, seen=1
    )


def _of_folder(path: Path, preprocessing: Preprocessing) -> ImageSource:
    listing = list_images(path)
    stated = None
    if listing.folders:
        index_of = {name: index for index, name in enumerate(listing.folders)}
        with_images = set(listing.classes)
        stated = Stated(
            form="folders",
            index=np.array([index_of[name] for name in listing.classes], np.int64),
            classes=listing.folders,
            empty=tuple(name for name in listing.folders if name not in with_images),
            where=str(path),
        )
    return ImageSource(
        locations=tuple(ImageLocation(file) for file in listing.files),
        preprocessing=preprocessing,
        name=_name(path),
        seen=len(listing.files) + sum(one.count for one in listing.skipped if one.are_images),
        stated=stated,
        skipped=listing.skipped,
    )


def _of_list(path: Path, preprocessing: Preprocessing) -> ImageSource:
    listed = read_list(path)
    for file in listed.files:
        require_opener(file)
    absent = [str(file) for file in listed.files if not file.is_file()]
    if len(absent) == len(listed.files):
        raise InputError(
            f"none of its {len(absent)} images is there, for example {absent[0]}",
            where=str(path),
            fix="paths are relative to the folder of the list; the label is the last word of a "
            "line (one with blanks needs a CSV)",
        )
    stated = None
    if listed.classes:
        classes = ordered(listed.classes)
        index_of = {name: index for index, name in enumerate(classes)}
        stated = Stated(
            form=listed.form,
            index=np.array([index_of[name] for name in listed.classes], np.int64),
            classes=classes,
            where=str(path),
        )
    return ImageSource(
        locations=tuple(ImageLocation(file) for file in listed.files),
        preprocessing=preprocessing,
        name=path.name,
        seen=len(listed.files),
        stated=stated,
    )


def _of_shards(
    paths: list[Path],
    whole: Path,
    preprocessing: Preprocessing,
    beside: tuple[Skipped, ...] = (),
) -> ImageSource:
    heads = read_heads(paths, whole.name)
    locations = tuple(
        ImageLocation(path, row)
        for path, head in zip(paths, heads, strict=True)
        for row in range(head.count)
    )
    labels = [head.labels for head in heads if head.labels is not None]
    stated = None
    if labels:
        index = np.concatenate(labels).astype(np.int64)
        stated = Stated(
            form="shard",
            index=index,
            classes=heads[0].class_names,
            span=(int(index.min()), int(index.max())),
            where=str(whole),
        )
    return ImageSource(
        locations=locations,
        preprocessing=preprocessing,
        name=_name(whole),
        seen=len(locations),
        stated=stated,
        skipped=beside,
        class_names=heads[0].class_names,
    )


def _name(path: Path) -> str:
    return path.name or path.resolve().name


def _by_file(locations: tuple[ImageLocation, ...]) -> Iterator[tuple[Path, list[int] | None]]:
    """Group neighbouring rows of one shard; a file of its own comes alone, with None."""
    rows: list[int] = []
    for index, location in enumerate(locations):
        if location.row is None:
            yield location.path, None
            continue
        rows.append(location.row)
        last = index + 1 == len(locations) or locations[index + 1].path != location.path
        if last:
            yield location.path, rows
            rows = []


def _spread(available: int, limit: int | None) -> NDArray[np.int64]:
    """Return indices spread evenly over what is available, so that no class is left out."""
    count = available if limit is None else min(limit, available)
    return np.arange(count, dtype=np.int64) * available // max(count, 1)
