"""What a sweep reads from outside: hashes of it, so that a change is noticed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from engines import storage

if TYPE_CHECKING:
    from engines.imaging.source import ImageSource

_ABSENT = "absent"


def hashes(paths: Iterable[Path]) -> dict[str, str]:
    """Return the SHA-256 of files by their absolute paths; of a folder, that of its names."""
    return {text: digest(text) for text in sorted({str(path.absolute()) for path in paths})}


def of_images(data: Path, chosen: Iterable[ImageSource]) -> dict[str, str]:
    """Return the same for the images that were chosen from a set, and for the set itself.

    An image that joins a folder changes which ones are chosen, so the folder's names count.
    """
    files = {location.path for source in chosen for location in source.locations}
    return hashes([data, *files])


def digest(text: str) -> str:
    """Return the hash of one path, as `hashes` has it, or that nothing lies there."""
    path = Path(text)
    if path.is_dir():
        names = sorted(one.relative_to(path).as_posix() for one in path.rglob("*") if one.is_file())
        return storage.sha256_of_bytes("\n".join(names).encode("utf-8", "surrogateescape"))
    return storage.sha256_of(path) if path.is_file() else _ABSENT
