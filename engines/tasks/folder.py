"""A folder of tasks as files: every byte of it checked, and what it says of itself."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from engines import storage
from engines.manifest import Manifest, read_manifest
from engines.plurals import counted
from engines.tasks.index import (
    StoredFile,
    Structure,
    TaskIndex,
    read_index,
    require_hash,
    unreadable,
)
from engines.tasks.open_tasks import artefact_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shared:
    """A graph of the folder.

    Attributes:
        path: Path of the graph.
        manifest: Its own.
        base: What its inputs start from; None for most.
        engine: What was built from it for the folder's target and lies beside it.
    """

    path: Path
    manifest: Manifest
    base: Path | None
    engine: Path | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskFolder:
    """A folder of tasks, all of whose files are what its index says.

    Attributes:
        path: Path of the folder.
        index: Its own.
        graphs: In the order of the index's structures.
        tasks: Manifest of each task's file, by name.
    """

    path: Path
    index: TaskIndex
    graphs: tuple[Shared, ...]
    tasks: dict[str, Manifest]

    @property
    def size_bytes(self) -> int:
        """Of the graphs with what belongs to them, and of the tasks."""
        bases = (graph.base.stat().st_size for graph in self.graphs if graph.base is not None)
        manifests = (*(graph.manifest for graph in self.graphs), *self.tasks.values())
        return sum(bases) + sum(manifest.total_bytes for manifest in manifests)

    def describe(self) -> str:
        """Return one line: how many tasks on what."""
        graphs = len(self.graphs)
        return (
            f"{counted(len(self.tasks), 'task')} on {counted(graphs, 'graph')} · "
            f"{self.size_bytes / 1e6:.1f} MB · {self.graphs[0].manifest.precision} for "
            f"{self.index.target}: {names_in_short(self.index.names)}"
        )


def names_in_short(names: tuple[str, ...], most: int = 6) -> str:
    """Return names for a line; of many, the first ones and how many more."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


def check_folder(folder: Path, *, with_engines: bool = True) -> TaskFolder:
    """Compare every file of a folder of tasks with its index and its manifest.

    Nothing is loaded into a runtime.

    Args:
        folder: It.
        with_engines: Whether what was built from its graphs is checked, too.

    Raises:
        TrustError: It is no such folder, or something in it is not what the index says.
    """
    index = read_index(folder)
    return TaskFolder(
        path=folder,
        index=index,
        graphs=tuple(
            _check_graph(folder, index, structure, with_engines=with_engines)
            for structure in index.structures
        ),
        tasks={task.name: _check_file(folder, task.delta) for task in index.tasks},
    )


def _check_graph(
    folder: Path, index: TaskIndex, structure: Structure, *, with_engines: bool
) -> Shared:
    graph = folder / structure.graph.file
    manifest, base, engine = _check_file(folder, structure.graph), None, None
    if structure.base is not None:
        base = folder / structure.base.file
        require_hash(base, _hash_of(base), structure.base)
    if with_engines:
        runs, _ = artefact_of(folder, index, structure)
        if runs != graph:
            read_manifest(runs)
            engine = runs
    return Shared(path=graph, manifest=manifest, base=base, engine=engine)


def _check_file(folder: Path, stored: StoredFile) -> Manifest:
    """Return the manifest of a file, whose bytes are what both it and the index say."""
    manifest = read_manifest(folder / stored.file)
    require_hash(folder / stored.file, manifest.sha256, stored)
    return manifest


def _hash_of(path: Path) -> str:
    try:
        return storage.sha256_of(path)
    except OSError as error:
        raise unreadable(path, error) from error
