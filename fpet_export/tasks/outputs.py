"""What one task of a folder says about images: its logits, and its match where a graph runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from engines.engine import OpenOptions
from engines.imaging.images import PixelArray
from engines.manifest import Manifest, read_manifest
from engines.parity.outputs import engine_outputs
from engines.parity.rows import ModelOutputs
from engines.tasks.index import read_index
from engines.tasks.open_tasks import artefact_of, open_tasks
from fpet_export.tasks.verify import audited

Progress = Callable[[int], None]


def task_manifest(folder: Path, name: str) -> Manifest:
    """Return a task's manifest with the preprocessing and the labels that hold for it.

    Raises:
        TrustError: It is not a folder of tasks, or a file is not what its index says.
        UnknownNameError: There is no such task.
    """
    task = read_index(folder).task(name, where=str(folder))
    return read_manifest(folder / task.delta.file)


def task_outputs(
    folder: Path,
    name: str,
    pixels: PixelArray,
    *,
    of_graph: bool = False,
    progress: Progress | None = None,
) -> ModelOutputs:
    """Classify (I, height, width, 3) pixels with a task.

    Args:
        folder: Of the tasks.
        name: Of the task.
        pixels: What to classify.
        of_graph: Run the graph, which shows its match too, where an engine was built from it.
        progress: Called after every batch.

    Raises:
        TrustError: A file of the folder is not what its index says.
        UnknownNameError: There is no such task.
    """
    index = read_index(folder)
    task = index.task(name, where=str(folder))
    structure = index.structures[task.structure]
    runs, manifest = artefact_of(folder, index, structure)
    if of_graph or runs.name == structure.graph.file:
        manifest = read_manifest(folder / structure.graph.file)
        one = dataclasses.replace(index, tasks=(task,))
        with audited(folder, one) as tasks:
            return engine_outputs(tasks.task(name), manifest, pixels, progress=progress)
    with open_tasks(folder, options=OpenOptions(allow_failed=True)) as tasks:
        return engine_outputs(tasks.task(name), manifest, pixels, progress=progress)
