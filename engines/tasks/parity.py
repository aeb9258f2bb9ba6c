"""Engines of tasks compared with reference outputs, task by task.

Needs numpy and the runtimes, so that a board can check the plan it built.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from engines.contract import OpenOptions
from engines.engine import open_engine
from engines.imaging.images import ImageSet
from engines.imaging.synthetic import synthetic_set
from engines.manifest import read_manifest
from engines.parity.comparison import ReferenceOutputs
from engines.parity.gates import gates_of
from engines.parity.outputs import DEFAULT_IMAGES, as_written, engine_outputs
from engines.parity.rows import ParityTable, joined
from engines.tasks.index import FILE, TaskIndex, read_index
from engines.tasks.open_tasks import TaskSet, open_tasks

Reference = tuple[str, ReferenceOutputs]
Progress = Callable[[str], None]
"""`progress(task)` after each of them."""


def has_tasks(graph: Path) -> bool:
    """Whether the index that fills a shared graph's inputs lies beside it."""
    return (graph.parent / FILE).is_file()


def tasks_of(graph: Path) -> tuple[str, ...]:
    """Return the tasks that a shared graph serves, of the index beside it.

    Raises:
        TrustError: The index is missing or damaged.
    """
    return _served(read_index(graph.parent), graph)


def references_of_graph(graph: Path, *, images: ImageSet | None = None) -> Iterator[Reference]:
    """Yield what every task of a shared graph says on it, without knowing how sure its match is.

    Args:
        graph: In a folder of tasks.
        images: What to run on; by default a few synthetic images.

    Raises:
        TrustError: A file of the folder is not what its index says.
        EngineError: The graph does not run here.
    """
    manifest = read_manifest(graph)
    assert manifest.preprocessing is not None, "every shared graph states it"
    if images is None:
        images = synthetic_set(manifest.preprocessing.size, DEFAULT_IMAGES)
    with (
        open_engine(graph, options=as_written(manifest)) as engine,
        open_tasks(graph.parent, engines={graph.name: engine}) as tasks,
    ):
        for name in _served(tasks.index, graph):
            handle = tasks.task(name)
            yield (
                name,
                ReferenceOutputs(
                    name=f"{name} on {graph.name}",
                    images=images,
                    outputs=engine_outputs(handle, handle.manifest(), images.pixels),
                    gates=gates_of(manifest.precision),
                ),
            )


def compare_tasks(
    graph: Path, engine: Path, *, references: Iterable[Reference] | None = None
) -> ParityTable:
    """Compare an engine with the graph that it was built from, for every task of the graph.

    Args:
        graph: In a folder of tasks.
        engine: Anywhere.
        references: What each task says on the graph, and how sure its match is where that is
            known; None runs the graph on a few synthetic images.

    Returns:
        One row a task, held to the gates of its reference.

    Raises:
        TrustError: A file of the folder is not what its index says.
        EngineError: One of the two does not run here.
    """
    expected = list(references_of_graph(graph) if references is None else references)
    with (
        open_engine(engine, options=OpenOptions(allow_failed=True)) as built,
        open_tasks(graph.parent, engines={graph.name: built}) as tasks,
    ):
        return compare_each(tasks, expected, reference=f"artefact {graph.name}")


def compare_each(
    tasks: TaskSet,
    references: Iterable[Reference],
    *,
    reference: str,
    progress: Progress | None = None,
) -> ParityTable:
    """Run tasks on what an open folder runs them, and compare each with its own reference.

    Args:
        tasks: The open folder.
        references: By name, each on images of its own.
        reference: What they are, in words.
        progress: Called after every task.

    Returns:
        One row a task. `engines.parity.rows.judge` turns a missed gate into an error.
    """
    tables = []
    for name, expected in references:
        handle = tasks.task(name)
        outputs = engine_outputs(handle, handle.manifest(), expected.images.pixels)
        tables.append(expected.table([expected.compare(name, outputs)]))
        if progress is not None:
            progress(name)
    return joined(tables, reference=reference)


def _served(index: TaskIndex, graph: Path) -> tuple[str, ...]:
    return tuple(
        task.name
        for task in index.tasks
        if index.structures[task.structure].graph.file == graph.name
    )
