"""Files that appear whole or not at all, and their hashes."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from engines.errors import MachineError, UsageError

_CHUNK_BYTES = 1 << 20
_PART = ".part"


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of the file's bytes as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def sha256_of_bytes(content: bytes) -> str:
    """Return the SHA-256 of `content` as 64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def refuse_overwrite(path: Path, *, force: bool) -> None:
    """Refuse an output before it is computed.

    Raises:
        UsageError: `path` exists and `force` is not given, it is a folder, or its folder cannot be
            made or written.
    """
    if path.exists() and not force:
        raise UsageError(
            f"{path.name} exists already",
            where=str(path),
            fix="choose another output, or add --force to replace it",
        )
    if path.is_dir():
        raise UsageError(
            f"{path.name} is a folder, a file is to be written there",
            where=str(path),
            fix="choose another output",
        )
    above = next(folder for folder in path.absolute().parents if os.path.lexists(folder))
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        problem = "a folder that you may not write" if above.is_dir() else "no folder"
        raise UsageError(
            f"{path.name} cannot be written: {above} is {problem}",
            where=str(path),
            fix="choose another output",
        )


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give the name of `path` in a temporary folder beside it; on success it moves into place.

    The bytes are on the disk (fsync) before the rename, so a crash, a full disk or Ctrl-C leaves
    either the old file or the new one, never half of one. Other files written into that folder,
    to which the first refers by name, move before it.

    Raises:
        MachineError: The folder cannot be written, or the disk is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            prefix=f".{path.name}.", suffix=_PART, dir=path.parent
        ) as folder:
            temporary = Path(folder) / path.name
            yield temporary
            files = sorted(Path(folder).iterdir(), key=lambda file: file == temporary)
            for file in files:
                with file.open("rb+") as content:
                    os.fsync(content.fileno())
            for file in files:
                file.replace(path.with_name(file.name))
    except OSError as error:
        raise MachineError(
            f"cannot write {path.name}: {error.strerror or error}",
            where=str(path.parent),
            fix="free space or choose a folder that you may write",
        ) from error


def home_of(path: Path) -> Path:
    """Return the folder in which a file that `atomic_path` gave a name will lie."""
    return path.parent.parent if path.parent.name.endswith(_PART) else path.parent


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write `content` to `path` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Write `content` to `path` atomically, in UTF-8."""
    write_bytes(path, content.encode())
