"""Which task of a folder is meant, and what its manifest says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from engines.errors import UsageError
from engines.manifest import Manifest, read_manifest
from engines.tasks.index import read_index


def refuse_tasks(path: Path, tasks: object) -> None:
    """Refuse a task's name where the artefact is not a folder of tasks.

    Raises:
        UsageError: There is such a name.
    """
    if tasks:
        raise UsageError(
            f"{path.name} is not a folder of tasks",
            where="--task",
            fix="leave --task out, or name the folder that `fpet-export tasks` wrote",
        )


def no_task(folder: object, tasks: Sequence[str]) -> UsageError:
    """Return the error of a folder of tasks where one of them must be named."""
    return UsageError(
        f"this is a folder of the tasks {', '.join(tasks)}",
        where=str(folder),
        fix=f"say which one: --task {tasks[0]}",
    )


def task_manifest(folder: Path, name: str) -> Manifest:
    """Return a task's manifest with the preprocessing and the labels that hold for it.

    Raises:
        TrustError: It is not a folder of tasks, or a file is not what its index says.
        UnknownNameError: There is no such task.
    """
    task = read_index(folder).task(name, where=str(folder))
    return read_manifest(folder / task.delta.file)
