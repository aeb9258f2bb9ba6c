"""Files that appear whole or not at all, and their hashes."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from engines.errors import MachineError, TrustError, UsageError

_CHUNK_BYTES = 1 << 20
_REMEMBERED_BYTES = 1 << 20
"""Smaller files are hashed again: that takes less than a millisecond."""
_TICK_NS = 20_000_000
"""Twice the longest tick of a Linux kernel, in which file systems note times."""
_PART = ".part"


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of the file's bytes as 64 hexadecimal digits.

    A large file is read once in a process: as long as the file system says that nothing changed
    it, what was found then is returned again.
    """
    with path.open("rb") as file:
        before = _Stamp.of(file)
        key = before.device, before.inode
        if _known.get(key, _NOTHING)[0] == before:
            return _known[key][1]
        is_settled = before.size >= _REMEMBERED_BYTES and _settle(before)
        digest = _digest(file)
        if is_settled and _Stamp.of(file) == before:
            _known[key] = before, digest
    return digest


@dataclasses.dataclass(frozen=True)
class _Stamp:
    """What the file system says of a file; whatever changes the file changes `changed_ns`.

    The time of a modification can be set by anyone, that of the last change cannot.
    """

    device: int
    inode: int
    size: int
    modified_ns: int
    changed_ns: int

    @classmethod
    def of(cls, file: BinaryIO) -> _Stamp:
        found = os.fstat(file.fileno())
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


_NOTHING: tuple[_Stamp | None, str] = (None, "")
_known: dict[tuple[int, int], tuple[_Stamp, str]] = {}
"""Digests by device and inode, with the stamp for which they hold."""


def _settle(stamp: _Stamp) -> bool:
    """Wait until a change from now on gets another stamp; say whether that is certain.

    File systems note times in ticks of some milliseconds. What changed a file in the same tick in
    which it was last changed, after it was read, would go unnoticed.
    """
    if os.name != "posix" or stamp.changed_ns % 1_000_000_000 == 0:
        return False  # no time of change, or one in whole seconds
    age = time.time_ns() - stamp.changed_ns
    if age < 0:
        return False  # a clock that was set back, or that of a server
    if age < _TICK_NS:
        time.sleep((_TICK_NS - age) / 1e9)
    return True


def _digest(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while chunk := file.read(_CHUNK_BYTES):
        digest.update(chunk)
    return digest.hexdigest()


def _move(file: Path, target: Path) -> None:
    """Rename a file; what is known of its bytes stays known, though a rename is a change."""
    with file.open("rb") as content:
        before = _Stamp.of(content)
        file.replace(target)
        after = _Stamp.of(content)
        stamp, digest = _known.get((before.device, before.inode), _NOTHING)
        if stamp == before and dataclasses.replace(after, changed_ns=stamp.changed_ns) == stamp:
            _known[after.device, after.inode] = after, digest


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
                _move(file, path.with_name(file.name))
    except OSError as error:
        raise MachineError(
            f"cannot write {path.name}: {error.strerror or error}",
            where=str(path.parent),
            fix="free space or choose a folder that you may write",
        ) from error


def home_of(path: Path) -> Path:
    """Return the folder in which a file that `atomic_path` gave a name will lie."""
    return path.parent.parent if path.parent.name.endswith(_PART) else path.parent


def copy_unchanged(source: Path, target: Path, *, sha256: str) -> None:
    """Copy a file whose hash is known.

    Raises:
        TrustError: The copy has another hash.
    """
    shutil.copyfile(source, target)
    if sha256_of(target) != sha256:
        raise TrustError(
            f"{source.name} changed while it was copied",
            where=str(source),
            fix="wait until the program that writes it has finished, then run the command again",
        )


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write `content` to `path` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Write `content` to `path` atomically, in UTF-8."""
    write_bytes(path, content.encode())
