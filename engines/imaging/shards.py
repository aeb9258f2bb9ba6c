"""Images in `.npz` shards: `images` uint8 (I, h, w, 3), and optionally `labels` and `class_names`.

Only the heads of shards are in memory; pixels are read row by row.
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

from engines.errors import InputError
from engines.imaging.files import shortened


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardHead:
    """Everything of a shard but its pixels.

    Attributes:
        count: Images.
        labels: (I,) class indices, or None.
        class_names: Names of the classes by index; empty when unknown.
    """

    count: int
    labels: NDArray[Any] | None
    class_names: tuple[str, ...]


def read_heads(paths: list[Path], name: str) -> list[ShardHead]:
    """Read the heads of shards, and refuse what are not shards of one data set.

    Raises:
        InputError: One is no whole shard, or they disagree on what is labelled, or how.
    """
    heads = [read_head(path) for path in paths]
    fix = "give shards of one data set"
    names = list(dict.fromkeys(head.class_names for head in heads))
    if len(names) > 1:
        raise InputError(
            "the shards do not agree on the names of the classes:\n"
            + "\n".join(f"  {shortened(one) or 'no names'}" for one in names[:2]),
            where=name,
            fix=fix,
        )
    without = [path.name for path, head in zip(paths, heads, strict=True) if head.labels is None]
    if 0 < len(without) < len(heads):
        raise InputError(
            f"{shortened(without)} of the {len(heads)} shards have no `labels`, the others do",
            where=name,
            fix=fix,
        )
    return heads


def read_head(path: Path) -> ShardHead:
    """Read everything of a shard but its pixels, and refuse what is not a shard.

    Raises:
        InputError: It is none.
    """
    with _whole_shard(path) as archive:
        names = archive.namelist()
        header = _array_header(archive, "images.npy") if "images.npy" in names else None
        labels = _small_array(archive, "labels.npy") if "labels.npy" in names else None
        classes = _small_array(archive, "class_names.npy") if "class_names.npy" in names else None
    _require_own_names(path, names)
    shape, dtype = header or ((), np.dtype(np.uint8))
    checks: list[tuple[Callable[[], bool], str]] = [
        (lambda: header is not None, "there is no array `images`"),
        (lambda: dtype == np.uint8, "`images` is not uint8"),
        (lambda: len(shape) == 4 and shape[-1] == 3, "`images` is not (I, h, w, 3)"),
        (lambda: bool(np.prod(shape)), "`images` is empty"),
        (
            lambda: labels is None or labels.shape == shape[:1],
            "`labels` does not have one entry for each image",
        ),
        (lambda: labels is None or labels.dtype.kind in "iu", "`labels` are not whole numbers"),
        (
            lambda: classes is None or (classes.ndim == 1 and classes.dtype.kind in "USiu"),
            "`class_names` is not a list of text",
        ),
    ]
    for holds, problem in checks:
        if not holds():
            raise InputError(
                problem, where=str(path), fix="write `images` uint8 (I, h, w, 3) and `labels` (I,)"
            )
    return ShardHead(
        count=shape[0],
        labels=labels,
        class_names=() if classes is None else _as_text(classes, path),
    )


_OTHER_NAMES = {
    "label": "labels", "target": "labels", "targets": "labels", "y": "labels",
    "classes": "class_names", "class_name": "class_names", "names": "class_names",
    "label_names": "class_names", "target_names": "class_names", "categories": "class_names",
}  # fmt: skip
"""What others call the arrays that a shard has under names of its own."""


def _require_own_names(path: Path, members: list[str]) -> None:
    """Refuse a shard whose labels or class names would be passed over for their name alone."""
    found = {member.removesuffix(".npy") for member in members}
    for other, own in _OTHER_NAMES.items():
        if other in found and own not in found:
            raise InputError(
                f"there is an array `{other}` and none called `{own}`, which is what is read",
                where=str(path),
                fix=f"write it as `{own}`, or leave it out",
            )


def rows_of(path: Path, rows: list[int]) -> Iterator[NDArray[np.uint8]]:
    """Yield (h, w, 3) images of ascending rows, reading the shard's pixels once, in order.

    Raises:
        InputError: The shard is damaged, or ends before a row.
    """
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


def _as_text(names: NDArray[Any], path: Path) -> tuple[str, ...]:
    if names.dtype.kind != "S":
        return tuple(str(name) for name in names)
    try:
        return tuple(bytes(name).decode("utf-8") for name in names)
    except UnicodeDecodeError as error:
        raise InputError(
            f"`class_names` are bytes that are not UTF-8: {error}",
            where=str(path),
            fix="write them as text: np.array(names)",
        ) from error


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
