"""The weights of one task, read from its folder, checked and assembled."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from engines.contract import Array
from engines.errors import TrustError
from engines.tasks.delta import Delta, read_delta
from engines.tasks.index import Structure, Task, TaskIndex, read_stored
from engines.tasks.inputs import FloatArray, assemble
from engines.tensor_file import read_arrays


def read_base(folder: Path, structure: Structure) -> Mapping[str, FloatArray]:
    """Return the backbone's weights that a structure's inputs start from; none for most.

    Raises:
        TrustError: The file is not the one that the index names.
    """
    if structure.base is None:
        return {}
    arrays, _ = read_arrays(folder / structure.base.file, read_stored(folder, structure.base))
    return arrays


def assemble_task(
    folder: Path, index: TaskIndex, task: Task, base: Mapping[str, FloatArray]
) -> dict[str, Array]:
    """Return what a task feeds to its graph besides the images.

    Args:
        folder: Folder of the tasks.
        index: Its index.
        task: One of the index.
        base: As `read_base` gives it for the task's structure.

    Raises:
        TrustError: The delta is not the one that the index names, belongs to another backbone or
            task, or is not what the graph takes.
    """
    path = folder / task.delta.file
    delta = read_delta(path, read_stored(folder, task.delta))
    _require_fit(delta, index, task, path)
    made: dict[str, Array] = {
        wanted.name: assemble(wanted, delta.weight, parts=task.parts, scale=task.scale, base=base)
        for wanted in index.structures[task.structure].inputs
    }
    delta.require_all_used()
    return made


def _require_fit(delta: Delta, index: TaskIndex, task: Task, path: Path) -> None:
    """Refuse the delta of another backbone or task, whatever its hash."""
    if delta.backbone != index.backbone:
        raise TrustError(
            f"the delta belongs to the backbone {delta.backbone[:16]}…, this folder holds "
            f"{index.backbone[:16]}…",
            where=str(path),
            fix="export this task together with the others",
        )
    if delta.task != task.name:
        raise TrustError(
            f"the delta is that of {delta.task!r}, the index gives it to {task.name!r}",
            where=str(path),
            fix="export the tasks again",
        )
