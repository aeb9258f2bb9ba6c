"""What each task of a folder said about a few images, to check the folder's engines elsewhere.

`tasks/NAME.check.npz` is a check file (`engines.parity.reference_file`) of one task: a bundle of a
folder holds one for each. Needs numpy and the runtime, so that a board can check what it built.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from engines.commands import command
from engines.contract import OpenOptions
from engines.errors import InputError
from engines.parity.outputs import ReferenceOutputs, engine_outputs
from engines.parity.reference_file import read_reference
from engines.parity.rows import ParityTable
from engines.tasks.index import FOLDER
from engines.tasks.open_tasks import open_tasks

SUFFIX = ".check.npz"

_ALL = OpenOptions(allow_failed=True)  # what failed before is what one wants to check

Progress = Callable[[str], None]
"""`progress(task)` after each of them."""


def check_path(folder: Path, name: str) -> Path:
    """Return where the check file of a task lies."""
    return folder / FOLDER / f"{name}{SUFFIX}"


def check_tasks(
    folder: Path, names: Sequence[str] = (), *, progress: Progress | None = None
) -> ParityTable:
    """Run tasks on what runs in this folder, and compare with what their check files expect.

    Args:
        folder: Of the tasks, with their check files.
        names: Of the tasks; all of them where none is named.
        progress: Called after every task.

    Returns:
        One row a task. `engines.parity.rows.judge` turns a missed gate into an error.

    Raises:
        UnknownNameError: There is no task of one of these names.
        InputError: There are no check files in this folder.
        TrustError: A file is damaged.
    """
    rows, described, labels, count, judged = [], [], [], 0, 0
    with open_tasks(folder, options=_ALL, resident_bytes=0) as tasks:
        for name in tasks.index.chosen(names, where=str(folder)):
            handle = tasks.task(name)
            path = check_path(folder, name)
            if not path.is_file():
                raise InputError(
                    f"there is no check file of the task {name!r}",
                    where=str(path),
                    fix=f"bundle it, and check what was unpacked: {command('bundle', folder)}",
                )
            expected = read_reference(path)
            _require_fitting(expected, handle.task.classes, path)
            evidence = engine_outputs(handle, handle.manifest(), expected.images.pixels)
            rows.append(expected.row(name, evidence))
            described.append(expected.images.description)
            labels.append(expected.images.labels_found)
            count += len(expected.images)
            judged += expected.sure_images() or len(expected.images)
            if progress is not None:
                progress(name)
    unsure = (
        "" if judged == count else f" ({judged} of {count} judged: the others' match is not sure)"
    )
    return ParityTable(
        images=", ".join(dict.fromkeys(described)) + unsure,
        labels=", ".join(dict.fromkeys(one for one in labels if one is not None)) or None,
        reference=f"logits in {FOLDER}/*{SUFFIX}",
        rows=tuple(rows),
    )


def _require_fitting(expected: ReferenceOutputs, classes: int, path: Path) -> None:
    """Refuse the check file of another task, whose answers cannot be compared."""
    if expected.logits.shape[1] != classes:
        raise InputError(
            f"the check file holds {expected.logits.shape[1]} logits an image, the task has "
            f"{classes} classes",
            where=str(path),
            fix="bundle the folder of tasks again, where it was made",
        )
