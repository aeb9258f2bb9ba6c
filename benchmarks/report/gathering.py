"""Finds the measurements in files and folders, and says of everything else why it is none."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.measurement import Measurement
from benchmarks.measurement_file import read_measurements
from engines import storage
from engines.errors import InputError

_LARGEST_BYTES = 64 << 20
"""No measurement is as large; reading one would take longer than all others."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
    """A measurement, and where it was found: a file, and which of several in it."""

    measurement: Measurement
    file: str
    index: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Skipped:
    """A file of a folder that is no measurement, and why."""

    file: str
    reason: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gathered:
    """Measurements in the order of their files, and the files that hold none."""

    found: tuple[Found, ...]
    skipped: tuple[Skipped, ...]


def gather(paths: Sequence[Path]) -> Gathered:
    """Read the measurements of files, and of the JSON files below folders.

    A file that is named must hold a measurement. One that lies in a folder may be something else:
    then it is listed as skipped. The same bytes are read once, however many copies lie there.

    Raises:
        InputError: A file that is named holds none, or nothing holds one.
    """
    found: list[Found] = []
    skipped: list[Skipped] = []
    seen: dict[str, str] = {}
    visited: set[Path] = set()
    for path, is_named in _files(paths):
        name, place = _shown(path), path.resolve()
        if place in visited:
            continue
        visited.add(place)
        try:
            digest = _hash(path)
            if digest in seen:
                skipped.append(Skipped(file=name, reason=f"the same as {seen[digest]}"))
                continue
            seen[digest] = name
            measurements = read_measurements(path)
        except InputError as error:
            if is_named:
                raise
            skipped.append(Skipped(file=name, reason=error.what))
            continue
        found += [
            Found(measurement=one, file=name, index=index) for index, one in enumerate(measurements)
        ]
    if not found:
        raise InputError(
            f"there is no measurement among {len(skipped)} files" if skipped
            else "there is no JSON file there",
            where=", ".join(map(str, paths)),
            fix="keep what `fpet-export bench … -o FILE` measures, and name its folder",
        )  # fmt: skip
    return Gathered(found=tuple(found), skipped=tuple(skipped))


def _files(paths: Sequence[Path]) -> Iterator[tuple[Path, bool]]:
    """Yield each file, and whether it was named; folders are walked without following links."""
    for path in paths:
        if not path.is_dir():
            yield path, True
            continue
        for folder, folders, names in os.walk(path):
            folders.sort()
            for name in sorted(names):
                if name.endswith(".json"):
                    yield Path(folder, name), False


def _hash(path: Path) -> str:
    try:
        if path.stat().st_size > _LARGEST_BYTES:
            raise InputError(
                f"it is larger than {_LARGEST_BYTES >> 20} MiB, which no measurement is",
                where=str(path),
                fix="name another file",
            )
        return storage.sha256_of(path)
    except OSError as error:
        raise InputError(
            f"it cannot be read: {error.strerror}", where=str(path), fix="check its rights"
        ) from error


def _shown(path: Path) -> str:
    return os.path.relpath(path) if path.is_absolute() and path.is_relative_to(Path.cwd()) else str(
        path
    )  # fmt: skip
