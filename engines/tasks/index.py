"""The index of a folder of tasks: which graph serves which task, and the hash of every file.

`tasks.json` names the shared graphs, how their inputs are filled, and the tasks. This file alone
writes and reads it.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from engines import storage
from engines.errors import TrustError, UnknownNameError, UsageError
from engines.manifest import TASKS_INDEX, from_json
from engines.near_names import did_you_mean
from engines.tasks.inputs import TaskInput

SCHEMA = 1
FILE = TASKS_INDEX
FOLDER = "tasks"

_FIX = "export the tasks again, or copy the whole folder"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoredFile:
    """A file in the folder: its path below it, with forward slashes, and its SHA-256."""

    file: str
    sha256: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Structure:
    """A graph that tasks share.

    Attributes:
        graph: The ONNX file. An engine that was built from it lies beside it, under the name that
            `engines.engine.build` gives it.
        inputs: The inputs that a task fills.
        base: Weights of the backbone that inputs are added to; None where no input needs one.
        merge_block: 0-based block after whose attention tokens merge, or None.
    """

    graph: StoredFile
    inputs: tuple[TaskInput, ...]
    base: StoredFile | None
    merge_block: int | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """One task of the folder.

    Attributes:
        name: What `--task` takes.
        delta: Its tensors.
        structure: Position of its graph among the structures.
        parts: What it brings: its method's name, "refinement", "head".
        scale: The scale of its method.
        classes: Number of its logits.
        labels: Class names; empty when unknown.
    """

    name: str
    delta: StoredFile
    structure: int
    parts: tuple[str, ...]
    scale: float
    classes: int
    labels: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskIndex:
    """Everything in a folder of tasks.

    Attributes:
        backbone: Fingerprint of the backbone that all of it belongs to.
        target: What the graphs were written for.
        structures: The shared graphs.
        tasks: In the order in which they were given.
        command: The command line, word by word.
        created: UTC, ISO 8601.
        schema: Version of this layout.
    """

    backbone: str
    target: str
    structures: tuple[Structure, ...]
    tasks: tuple[Task, ...]
    command: tuple[str, ...] = ()
    created: str = dataclasses.field(
        default_factory=lambda: dt.datetime.now(dt.timezone.utc).isoformat(timespec="seconds")
    )
    schema: int = SCHEMA

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the tasks."""
        return tuple(task.name for task in self.tasks)

    def task(self, name: str, *, where: str) -> Task:
        """Return the task of this name.

        Raises:
            UnknownNameError: There is none; the names are listed, and the nearest proposed.
        """
        for task in self.tasks:
            if task.name == name:
                return task
        raise UnknownNameError(
            f"{name!r} is not one of the tasks {', '.join(self.names)}",
            where=where,
            fix=did_you_mean(name, self.names, otherwise="choose one of the names above"),
        )

    def chosen(self, names: Iterable[str] | None, *, where: str) -> tuple[str, ...]:
        """Return these tasks, each once; all tasks where none is named.

        Raises:
            UnknownNameError: There is no task of one of the names.
        """
        return tuple(
            dict.fromkeys(self.task(name, where=where).name for name in names or self.names)
        )


def check_names(names: Iterable[str], *, kind: str = "task") -> None:
    """Refuse names that are no file names, and names that are given twice.

    Args:
        names: The names.
        kind: What they name, for the message.

    Raises:
        UsageError: There is such a name.
    """
    seen: dict[str, str] = {}
    for name in names:
        if not _NAME.fullmatch(name):
            raise UsageError(
                f"{name!r} cannot name a {kind}: letters, digits, '.', '_' and '-' only",
                where=f"the names of the {kind}s",
                fix="name it yourself: NAME=RUN",
            )
        # Two files may not differ in case alone: some systems see one file.
        if name.lower() in seen:
            raise UsageError(
                f"two runs are called {name!r}"
                if seen[name.lower()] == name
                else f"{seen[name.lower()]!r} and {name!r} differ in case alone",
                where=f"the names of the {kind}s",
                fix="name one of them yourself: NAME=RUN",
            )
        seen[name.lower()] = name


def files_of(index: TaskIndex) -> tuple[StoredFile, ...]:
    """Return every file that an index names: graphs, what inputs start from, and deltas."""
    shared = (stored for one in index.structures for stored in (one.graph, one.base))
    return (
        *(stored for stored in shared if stored is not None),
        *(task.delta for task in index.tasks),
    )


def store(folder: Path, file: str) -> StoredFile:
    """Return a file of the folder with its hash."""
    return StoredFile(file=file, sha256=storage.sha256_of(folder / file))


def write_index(folder: Path, index: TaskIndex) -> None:
    """Write the index of `folder`, atomically."""
    text = json.dumps(dataclasses.asdict(index), indent=1)
    storage.write_text(folder / FILE, text + "\n")


def read_index(folder: Path) -> TaskIndex:
    """Read the index of `folder`.

    Raises:
        TrustError: There is none, or it is damaged, of another version, or names files outside.
    """
    path = folder / FILE
    try:
        document: Any = json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise TrustError(
            f"this is not a folder of tasks: there is no {FILE}", where=str(folder), fix=_FIX
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise TrustError(f"the index cannot be read: {error}", where=str(path), fix=_FIX) from error
    schema = document.get("schema") if isinstance(document, dict) else type(document).__name__
    if schema != SCHEMA:
        raise TrustError(
            f"the index has schema {schema!r}, this version reads {SCHEMA}",
            where=str(path),
            fix=_FIX,
        )
    try:
        index = from_json(TaskIndex, document)
        check_names(index.names)
        _check_places(index)
    except (TypeError, ValueError, UsageError) as error:
        raise TrustError(f"the index is damaged: {error}", where=str(path), fix=_FIX) from error
    return index


def read_stored(folder: Path, stored: StoredFile) -> bytes:
    """Return the bytes of a file of the folder, checked against its hash.

    Raises:
        TrustError: It cannot be read, or its bytes are others.
    """
    path = folder / stored.file
    try:
        content = path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from error
    require_hash(path, storage.sha256_of_bytes(content), stored)
    return content


def unreadable(path: Path, error: OSError) -> TrustError:
    """Return the error of a file of a folder that cannot be read."""
    return TrustError(f"the file cannot be read: {error.strerror}", where=str(path), fix=_FIX)


def require_hash(path: Path, found: str, stored: StoredFile) -> None:
    """Refuse a file of a folder whose hash is not the index's.

    Raises:
        TrustError: It is another one.
    """
    if found != stored.sha256:
        raise TrustError(
            f"SHA-256 is {found[:16]}…, the index says {stored.sha256[:16]}…",
            where=str(path),
            fix=_FIX,
        )


def _check_places(index: TaskIndex) -> None:
    for task in index.tasks:
        if not 0 <= task.structure < len(index.structures):
            raise ValueError(f"{task.name} names structure {task.structure}")
    for stored in files_of(index):
        parts = stored.file.split("/")
        if "\\" in stored.file or not all(_NAME.fullmatch(part) for part in parts):
            raise ValueError(f"it names a file outside its folder: {stored.file!r}")
