"""One archive that carries an artefact to another machine, and nothing that nobody asked for.

A bundle is an uncompressed tar file (POSIX.1-1988 "ustar"), so that `tar xf` unpacks it on any
board. Its first member, `bundle.json`, lists the others with size and hash. Everything else about
the file follows from that list: plain files, no owner, no date, no links, no spare byte, and no
folder but one, whose name is fixed: `tasks/`, for the files of a folder of tasks. So a bundle is
checked by comparing it with what the list says it must be, header by header; what differs is
refused, whatever it is. A tar reader never sees an unchecked one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_args

from engines import storage
from engines.errors import InputError, TrustError, UsageError

SCHEMA = 1
SCHEMA_WITH_TASKS = 2
"""Of a bundle with files in `tasks/`: who knows only the first reads no such bundle."""

FOLDER = "tasks"
INDEX = "bundle.json"
SUFFIX = ".bundle.tar"
LARGEST_FILE_BYTES = 8**11 - 1
"""What a ustar header can say: 8 GiB less one."""

Role = Literal["artefact", "manifest", "companion", "check", "plain", "agent", "readme", "extra"]
"""What a file is for: "plain" is the graph of the baseline; "extra" belongs to another artefact."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_BLOCK = 512
_NESTED = f"{FOLDER}/"
_LONGEST_NAME = 100
_END = bytes(2 * _BLOCK)
_CHUNK_BYTES = 1 << 20
_LARGEST_INDEX_BYTES = 1 << 20
_FIX = "get the bundle again from whoever made it"


@dataclasses.dataclass(frozen=True)
class Entry:
    """A file in a bundle; its name is that of a file, or `tasks/` and that."""

    name: str
    role: Role
    size_bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Bundle:
    """What a bundle's index says.

    Attributes:
        target: Where the artefact is to run.
        entries: The files, in the archive's order.
        tools: Versions of what made it.
    """

    target: str
    entries: tuple[Entry, ...]
    tools: Mapping[str, str]

    def names(self, role: Role) -> tuple[str, ...]:
        """Return the names of the files that play a role."""
        return tuple(entry.name for entry in self.entries if entry.role == role)

    @property
    def artefact(self) -> str:
        """The graph, the engine, or the index of a folder of tasks."""
        return self.names("artefact")[0]


def write_bundle(
    out: Path,
    files: Sequence[tuple[Path, Role]],
    *,
    target: str,
    tools: Mapping[str, str],
    tasks: Sequence[tuple[Path, Role]] = (),
    force: bool = False,
) -> Bundle:
    """Write a bundle, atomically; the same files give the same bytes.

    Args:
        out: `NAME.bundle.tar`.
        files: What goes in, one of them the artefact. They keep their names and lose their folders.
        target: Where the artefact is to run.
        tools: Versions to record.
        tasks: What goes into `tasks/`.
        force: Replace a file that exists.

    Raises:
        InputError: A file has a name that a bundle cannot hold, or is too large.
        UsageError: Two files have one name, or `out` exists.
    """
    storage.refuse_overwrite(out, force=force)
    nested = tuple(_entry(path, role, folder=_NESTED) for path, role in tasks)
    entries = (*nested, *(_entry(path, role) for path, role in files))
    bundle = Bundle(target=target, entries=entries, tools=dict(sorted(tools.items())))
    _require_distinct(entries)
    index = _index_bytes(bundle)
    with storage.atomic_path(out) as temporary, temporary.open("wb") as archive:
        archive.write(_header(INDEX, len(index)))
        archive.write(index + _padding(len(index)))
        for (path, _), entry in zip((*tasks, *files), entries, strict=True):
            archive.write(_header(entry.name, entry.size_bytes))
            with path.open("rb") as content:
                copied = 0
                while chunk := content.read(_CHUNK_BYTES):
                    copied += archive.write(chunk)
            if copied != entry.size_bytes:
                raise InputError(
                    f"{entry.name} changed while it was bundled",
                    where=str(path),
                    fix="wait until the program that writes it has finished, then bundle again",
                )
            archive.write(_padding(entry.size_bytes))
        archive.write(_END)
    return bundle


def read_bundle(path: Path) -> Bundle:
    """Check a bundle, every byte of it, and return its index.

    Raises:
        InputError: There is no such file.
        TrustError: It is not exactly what its index says.
    """
    with _opened(path) as archive:
        return _check(archive, path)


def read_files(path: Path, ending: str) -> dict[str, bytes]:
    """Check a bundle, and return the bytes of its files whose names end so, by name.

    Raises:
        InputError: There is no such file.
        TrustError: It is not exactly what its index says.
    """
    with _opened(path) as archive:
        bundle = _read_index(archive, path)
        return {
            entry.name: b"".join(chunks)
            for entry, chunks in _contents(archive, bundle, path)
            if entry.name.endswith(ending)
        }


def unpack(path: Path, folder: Path, *, force: bool = False) -> Path:
    """Check a bundle and lay its files into a folder; return the artefact's path.

    Every file appears whole or not at all, and none before its hash was checked.

    Raises:
        InputError: There is no such file, or the folder cannot be written.
        TrustError: It is not exactly what its index says.
        UsageError: A file exists already.
    """
    with _opened(path) as archive:
        bundle = _check(archive, path)
        _refuse_other_folder(folder, bundle)
        for name in (INDEX, *(entry.name for entry in bundle.entries)):
            storage.refuse_overwrite(folder / name, force=force)
        storage.write_bytes(folder / INDEX, _index_bytes(bundle))
        archive.seek(0)
        if _read_index(archive, path) != bundle:
            raise _corrupt("it changed while it was read", path)
        for entry, chunks in _contents(archive, bundle, path):
            target = folder / entry.name
            with storage.atomic_path(target) as temporary, temporary.open("wb") as file:
                for chunk in chunks:
                    file.write(chunk)
    return folder / bundle.artefact


def _refuse_other_folder(folder: Path, bundle: Bundle) -> None:
    """Refuse to write through a link, or to a file, that has the name of the one folder."""
    nested = folder / FOLDER
    if _schema_of(bundle.entries) == SCHEMA_WITH_TASKS and (
        nested.is_symlink() or (nested.exists() and not nested.is_dir())
    ):
        raise InputError(
            f"{FOLDER} is {'a link' if nested.is_symlink() else 'a file'} there, and the bundle "
            "has files in a folder of this name",
            where=str(nested),
            fix="unpack into another folder",
        )


def _check(archive: BinaryIO, path: Path) -> Bundle:
    bundle = _read_index(archive, path)
    for _ in _contents(archive, bundle, path):
        pass
    return bundle


def read_index(path: Path) -> Bundle:
    """Read the list of a bundle that was unpacked.

    Raises:
        TrustError: It is damaged.
    """
    try:
        return _bundle_from(path.read_bytes(), path)
    except OSError as error:
        raise InputError(
            f"the bundle's list cannot be read: {error.strerror}", where=str(path), fix=_FIX
        ) from error


def check_unpacked(folder: Path) -> Bundle:
    """Check every file of a bundle that was unpacked; others in the folder are not its own.

    Raises:
        InputError: There is no list.
        TrustError: The list is damaged, or a file is absent or another.
    """
    bundle = read_index(folder / INDEX)
    for entry in bundle.entries:
        path = folder / entry.name
        if not path.is_file():
            raise TrustError(f"{entry.name} is not there", where=str(path), fix=_FIX)
        size = path.stat().st_size
        if size != entry.size_bytes:
            raise TrustError(
                f"{entry.name} has {size} bytes, the list says {entry.size_bytes}",
                where=str(path),
                fix=_FIX,
            )
        found = storage.sha256_of(path)
        if found != entry.sha256:
            raise TrustError(
                f"{entry.name} is {found[:16]}…, the list says {entry.sha256[:16]}…",
                where=str(path),
                fix=_FIX,
            )
    return bundle


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise InputError(
            f"the bundle cannot be read: {error.strerror}", where=str(path), fix="check the path"
        ) from error


def _contents(
    archive: BinaryIO, bundle: Bundle, path: Path
) -> Iterator[tuple[Entry, Iterator[bytes]]]:
    """Yield every file with its bytes; what is not read is read over, and all of it is checked."""
    for entry in bundle.entries:
        if archive.read(_BLOCK) != _header(entry.name, entry.size_bytes):
            raise _corrupt(f"{entry.name} is not where the index places it", path)
        chunks = _checked(archive, entry, path)
        yield entry, chunks
        for _ in chunks:
            pass
    if archive.read(len(_END) + 1) != _END:
        raise _corrupt("there is data after the last file", path)


def _checked(archive: BinaryIO, entry: Entry, path: Path) -> Iterator[bytes]:
    """Yield the bytes of one file; the last chunk follows only when the hash is right."""
    digest, left, held = hashlib.sha256(), entry.size_bytes, b""
    while left:
        chunk = archive.read(min(left, _CHUNK_BYTES))
        if not chunk:
            raise _corrupt(f"it ends within {entry.name}", path)
        digest.update(chunk)
        left -= len(chunk)
        if held:
            yield held
        held = chunk
    padding = _padding(entry.size_bytes)
    if digest.hexdigest() != entry.sha256 or archive.read(len(padding)) != padding:
        raise _corrupt(f"{entry.name} is not what the index says", path)
    if held:
        yield held


def _read_index(archive: BinaryIO, path: Path) -> Bundle:
    header = archive.read(_BLOCK)
    try:
        size = int(header[124:135], 8)
    except ValueError:
        size = -1
    if not 0 < size <= _LARGEST_INDEX_BYTES or header != _header(INDEX, size):
        raise _corrupt(f"it does not begin with {INDEX}", path)
    text, padding = archive.read(size), _padding(size)
    if len(text) != size or archive.read(len(padding)) != padding:
        raise _corrupt(f"it ends within {INDEX}", path)
    return _bundle_from(text, path)


def _bundle_from(text: bytes, path: Path) -> Bundle:
    try:
        bundle = _bundle_of(json.loads(text.decode("utf-8")))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _corrupt(f"its index is damaged: {error}", path) from error
    if _index_bytes(bundle) != text:
        raise _corrupt("its index is damaged: it does not match its own hash", path)
    return bundle


def _bundle_of(document: Any) -> Bundle:
    schema = document["schema"]
    if schema not in (SCHEMA, SCHEMA_WITH_TASKS):
        known = f"{SCHEMA} and {SCHEMA_WITH_TASKS}"
        raise ValueError(f"schema {schema!r}, this version reads {known}")
    entries = tuple(
        Entry(file["name"], file["role"], file["size_bytes"], file["sha256"])
        for file in document["files"]
    )
    for entry in entries:
        if not _is_name(entry.name, schema):
            raise ValueError(f"{entry.name!r} is not a name that a file in a bundle may have")
        if entry.role not in get_args(Role):
            raise ValueError(f"{entry.name} plays no known role")
        size = entry.size_bytes
        if type(size) is not int or not 0 <= size <= LARGEST_FILE_BYTES:
            raise ValueError(f"{entry.name} has no possible size")
        if not re.fullmatch("[0-9a-f]{64}", entry.sha256):
            raise ValueError(f"{entry.name} has no hash")
    if len({entry.name.lower() for entry in entries}) != len(entries) or _hides_folder(entries):
        raise ValueError("two files have one name")
    if schema != _schema_of(entries):
        raise ValueError(f"schema {schema}, and no file in {_NESTED}")
    artefact = [entry.name for entry in entries if entry.role == "artefact"]
    if artefact and artefact[0].startswith(_NESTED):
        raise ValueError(f"its artefact lies in {_NESTED}")
    if [entry.role for entry in entries].count("artefact") != 1:
        raise ValueError("it does not hold exactly one artefact")
    tools = {str(name): str(version) for name, version in document["tools"].items()}
    return Bundle(target=str(document["target"]), entries=entries, tools=tools)


def _index_bytes(bundle: Bundle) -> bytes:
    document = {
        "schema": _schema_of(bundle.entries),
        "target": bundle.target,
        "tools": dict(bundle.tools),
        "files": [dataclasses.asdict(entry) for entry in bundle.entries],
    }
    own = hashlib.sha256(json.dumps(document).encode()).hexdigest()
    return (json.dumps({**document, "sha256": own}, indent=1) + "\n").encode()


def _is_name(name: str, schema: int) -> bool:
    """Say whether a file of a bundle of this schema may have this name."""
    own = name[len(_NESTED) :] if schema == SCHEMA_WITH_TASKS and name.startswith(_NESTED) else name
    return bool(_NAME.fullmatch(own)) and len(name) <= _LONGEST_NAME and name != INDEX


def _schema_of(entries: Sequence[Entry]) -> int:
    has_tasks = any(entry.name.startswith(_NESTED) for entry in entries)
    return SCHEMA_WITH_TASKS if has_tasks else SCHEMA


def _hides_folder(entries: Sequence[Entry]) -> bool:
    """Say whether a file has the name of the folder that others lie in."""
    names = {entry.name.lower() for entry in entries}
    return FOLDER in names and _schema_of(entries) == SCHEMA_WITH_TASKS


def _entry(path: Path, role: Role, *, folder: str = "") -> Entry:
    name = folder + path.name
    if not _is_name(name, SCHEMA_WITH_TASKS if folder else SCHEMA):
        raise InputError(
            f"{name!r} cannot be bundled: letters, digits, '.', '_' and '-' make a name there, "
            f"{_LONGEST_NAME} at most",
            where=str(path),
            fix="give the task another name: `fpet-export tasks` takes NAME=RUN"
            if folder
            else "build it with another -o",
        )
    size = path.stat().st_size
    if size > LARGEST_FILE_BYTES:
        raise InputError(
            f"{path.name} has {size} bytes, a bundle holds files below 8 GiB",
            where=str(path),
            fix="copy the files themselves",
        )
    return Entry(name, role, size, storage.sha256_of(path))


def _require_distinct(entries: Sequence[Entry]) -> None:
    seen = {FOLDER} if _schema_of(entries) == SCHEMA_WITH_TASKS else set()
    for entry in entries:
        if entry.name.lower() in seen:
            raise UsageError(
                f"two files of the bundle are called {entry.name}",
                where=entry.name,
                fix="rename one of them",
            )
        seen.add(entry.name.lower())


def _header(name: str, size: int) -> bytes:
    """Return the one header that a file of this name and size has (POSIX.1-1988, section 10.1.1).

    Not by `tarfile`: its headers differ between versions of Python.
    """
    mode, nobody, long_ago = b"%07o\0" % 0o644, b"%07o\0" % 0, b"%011o\0" % 0
    parts = (
        name.encode("ascii").ljust(100, b"\0"), mode, nobody, nobody, b"%011o\0" % size, long_ago,
        b" " * 8, b"0", bytes(100), b"ustar\0", b"00",
    )  # fmt: skip
    header = b"".join(parts).ljust(_BLOCK, b"\0")
    return header[:148] + b"%06o\0 " % sum(header) + header[156:]


def _padding(size: int) -> bytes:
    return bytes(-size % _BLOCK)


def _corrupt(what: str, path: Path) -> TrustError:
    return TrustError(f"the bundle is refused: {what}", where=str(path), fix=_FIX)
