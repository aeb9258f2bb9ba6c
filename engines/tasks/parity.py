"""An engine of a graph that tasks share, compared with that graph: task by task.

Needs numpy and the runtimes of the two, so that a board can check the plan it built.
"""

from __future__ import annotations

from pathlib import Path

from engines.contract import Engine, OpenOptions
from engines.engine import open_engine
from engines.imaging.images import ImageSet
from engines.imaging.synthetic import synthetic_set
from engines.manifest import read_manifest
from engines.parity.outputs import DEFAULT_IMAGES, as_written, engine_outputs
from engines.parity.rows import ModelOutputs, ParityTable, compare_stage, gates_of
from engines.tasks.index import FILE
from engines.tasks.open_tasks import open_tasks


def has_tasks(graph: Path) -> bool:
    """Whether the index that fills a shared graph's inputs lies beside it."""
    return (graph.parent / FILE).is_file()


def compare_tasks(graph: Path, engine: Path, *, images: ImageSet | None = None) -> ParityTable:
    """Compare an engine with the graph that it was built from, for every task of the graph.

    Args:
        graph: In a folder of tasks.
        engine: Anywhere.
        images: What to compare on; by default a few synthetic images.

    Returns:
        One row a task, held to the gates of the graph's precision.

    Raises:
        TrustError: A file of the folder is not what its index says.
        EngineError: One of the two does not run here.
    """
    manifest = read_manifest(graph)
    assert manifest.preprocessing is not None, "every shared graph states it"
    if images is None:
        images = synthetic_set(manifest.preprocessing.size, DEFAULT_IMAGES)
    rows = []
    with (
        open_engine(graph, options=as_written(manifest)) as reference,
        open_engine(engine, options=OpenOptions(allow_failed=True)) as built,
    ):
        expected = _logits_by_task(graph, reference, images)
        for name, actual in _logits_by_task(graph, built, images).items():
            gates = gates_of(manifest.precision)
            rows.append(
                compare_stage(name, actual, expected[name], gates=gates, labels=images.labels)
            )
    return ParityTable(
        images=images.description, reference=f"artefact {graph.name}", rows=tuple(rows)
    )


def _logits_by_task(graph: Path, engine: Engine, images: ImageSet) -> dict[str, ModelOutputs]:
    """Classify images with every task that the graph serves, on the given engine."""
    with open_tasks(graph.parent, engines={graph.name: engine}) as tasks:
        served = [
            task.name
            for task in tasks.index.tasks
            if tasks.index.structures[task.structure].graph.file == graph.name
        ]
        return {
            name: engine_outputs(handle, handle.manifest(), images.pixels)
            for name, handle in ((name, tasks.task(name)) for name in served)
        }
