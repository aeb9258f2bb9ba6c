"""What one task of a folder says about images: its logits, and its match where a graph runs."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from engines.backends import ort
from engines.contract import Engine, OpenOptions
from engines.imaging.images import PixelArray
from engines.manifest import read_manifest
from engines.onnx_graph.taps import with_outputs
from engines.parity.model_outputs import ModelOutputs
from engines.parity.outputs import as_written, engine_outputs
from engines.tasks.index import TaskIndex, read_index
from engines.tasks.open_tasks import TaskSet, artefact_of, open_tasks

Progress = Callable[[int], None]


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
        folder: Folder of the tasks.
        name: Name of the task.
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


@contextlib.contextmanager
def audited(folder: Path, index: TaskIndex) -> Iterator[TaskSet]:
    """Open the folder with graphs that show their matches and sizes."""
    with contextlib.ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="fpet-export-"))
        engines: dict[str, Engine] = {}
        for number in sorted({task.structure for task in index.tasks}):
            graph = folder / index.structures[number].graph.file
            manifest = read_manifest(graph)
            probed = with_outputs(graph, manifest.probes.values(), Path(scratch))
            engine = ort.open_engine(probed, None, options=as_written(manifest))
            engines[graph.name] = stack.enter_context(engine)
        yield stack.enter_context(open_tasks(folder, engines=engines))
