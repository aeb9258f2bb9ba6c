"""What each task of a folder said about a few images, to check the folder's engines elsewhere.

`tasks/NAME.check.npz` is a check file (`engines.parity.reference_file`) of one task: a bundle of a
folder holds one for each. Needs numpy and the runtime, so that a board can check what it built.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from engines.commands import command
from engines.contract import OpenOptions
from engines.errors import InputError
from engines.parity.comparison import ReferenceOutputs
from engines.parity.reference_file import read_reference
from engines.parity.rows import ParityTable
from engines.tasks.index import FOLDER, Task
from engines.tasks.open_tasks import open_tasks
from engines.tasks.parity import Progress, compare_each

SUFFIX = ".check.npz"

_ALL = OpenOptions(allow_failed=True)  # what failed before is what one wants to check


def check_path(folder: Path, name: str) -> Path:
    """Return where the check file of a task lies."""
    return folder / FOLDER / f"{name}{SUFFIX}"


def check_tasks(
    folder: Path, names: Sequence[str] = (), *, progress: Progress | None = None
) -> ParityTable:
    """Run tasks on what runs in this folder, and compare with what their check files expect.

    Args:
        folder: Folder of the tasks, with their check files.
        names: Names of the tasks; all of them where none is named.
        progress: Called after every task.

    Returns:
        One row a task. `engines.parity.rows.judge` turns a missed gate into an error.

    Raises:
        UnknownNameError: There is no task of one of these names.
        InputError: There are no check files in this folder.
        TrustError: A file is damaged.
    """
    with open_tasks(folder, options=_ALL, resident_bytes=0) as tasks:
        index, where = tasks.index, str(folder)
        chosen = (index.task(name, where=where) for name in index.chosen(names, where=where))
        return compare_each(
            tasks,
            ((task.name, read_task_reference(folder, task)) for task in chosen),
            reference=f"logits in {FOLDER}/*{SUFFIX}",
            progress=progress,
        )


def read_task_reference(folder: Path, task: Task) -> ReferenceOutputs:
    """Read the check file of a task.

    Raises:
        InputError: There is none, or it is that of another task.
        TrustError: It is damaged.
    """
    path = check_path(folder, task.name)
    if not path.is_file():
        raise InputError(
            f"there is no check file of the task {task.name!r}",
            where=str(path),
            fix=f"bundle it, and check what was unpacked: {command('bundle', folder)}",
        )
    expected = read_reference(path)
    _require_fitting(expected, task.classes, path)
    return expected


def _require_fitting(expected: ReferenceOutputs, classes: int, path: Path) -> None:
    """Refuse the check file of another task, whose answers cannot be compared."""
    found = expected.outputs.logits.shape[1]
    if found != classes:
        raise InputError(
            f"the check file holds {found} logits an image, the task has {classes} classes",
            where=str(path),
            fix="bundle the folder of tasks again, where it was made",
        )
