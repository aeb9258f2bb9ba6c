"""Which task of a folder is meant."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from engines.errors import UsageError


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
