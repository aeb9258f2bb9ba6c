"""Many tasks on one backbone, open: a handle for each, and one engine that serves all of them.

`open_tasks(folder)` opens nothing but the index. `tasks.task("cifar")` is a handle: an engine that
takes images and gives that task's logits. The weights of a task are assembled when it runs for the
first time and stay until others need their place; the shared engine is opened once and knows no
"current task", so handles may be used from any number of threads at once.
"""

from __future__ import annotations

import dataclasses
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from engines.backends._engine_base import EngineBase, EngineSpec
from engines.closing import Closing
from engines.commands import command
from engines.contract import Array, Engine, Feeds, OpenOptions
from engines.engine import default_path, load_target, open_engine
from engines.errors import EngineError, TrustError
from engines.manifest import Manifest, TensorSpec, manifest_path, read_manifest
from engines.tasks.index import Structure, Task, TaskIndex, read_index
from engines.tasks.inputs import FloatArray
from engines.tasks.weights import assemble_task, read_base
from engines.verdict import require_passed

RESIDENT_SHARE = 0.05
"""Part of the shared graph's size that the assembled weights of tasks may take by default."""


def open_tasks(
    folder: Path | str,
    *,
    options: OpenOptions | None = None,
    resident_bytes: int | None = None,
    engines: Mapping[str, Engine] | None = None,
) -> TaskSet:
    """Open a folder that `fpet-export tasks` wrote.

    Where an engine was built from a shared graph for the folder's target, it runs in the graph's
    place; `TaskEngine.describe` says what runs.

    Args:
        folder: It.
        options: How its engines are opened.
        resident_bytes: What the assembled weights of tasks may take in memory before those used
            least recently make room; at least one task stays. None takes `RESIDENT_SHARE` of the
            graph, and no limit where tasks bring folded weights: there a switch shall be a change
            of addresses, for 42 MB a task on a GPU (LoRA on a ViT-B/16 in half precision).
        engines: What runs in place of a graph, by its file's name, such as a copy of it that shows
            its match; they stay the caller's.

    Raises:
        TrustError: It is no such folder, or its index is damaged.
    """
    path = Path(folder)
    return TaskSet(
        path,
        read_index(path),
        options=options or OpenOptions(),
        resident_bytes=resident_bytes,
        engines=engines or {},
    )


class TaskSet(Closing):
    """The tasks of a folder; holds the shared engines: use it in a `with` statement.

    Attributes:
        index: What is in the folder.
    """

    def __init__(
        self,
        folder: Path,
        index: TaskIndex,
        *,
        options: OpenOptions,
        resident_bytes: int | None,
        engines: Mapping[str, Engine],
    ) -> None:
        self.index = index
        self._given = engines
        self._folder, self._options = folder, options
        self._limit_bytes = resident_bytes
        self._lock = threading.Lock()
        self._opened: dict[int, _Shared] = {}
        self._weights: OrderedDict[str, Feeds] = OrderedDict()
        self._closed = False

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the tasks."""
        return self.index.names

    def task(self, name: str) -> TaskEngine:
        """Return the handle of a task; it lives as long as this set.

        Raises:
            UnknownNameError: There is no task of this name.
            TrustError: A file is not the one that the index names, or belongs to another backbone.
            ParityError: Its check, or that of the shared engine, failed.
            EngineError: The shared engine cannot be opened.
        """
        task = self.index.task(name, where=str(self._folder))
        self._require_passed(task)
        return TaskEngine(self, task, self._shared(task.structure))

    def _require_passed(self, task: Task) -> None:
        """Refuse a task whose check failed, unless the caller brings the engine: to compare it."""
        delta = self._folder / task.delta.file
        graph = self.index.structures[task.structure].graph.file
        if graph not in self._given and manifest_path(delta).exists():
            manifest = read_manifest(delta, verify=False)
            require_passed(delta, manifest, allow_failed=self._options.allow_failed)

    def weights(self, task: Task) -> Feeds:
        """Return what a task feeds to the shared engine besides the images.

        Raises:
            TrustError: Its delta is not the one that the index names, belongs to another backbone,
                or is not what the graph takes.
        """
        with self._lock:
            found = self._weights.get(task.name)
            if found is not None:
                self._weights.move_to_end(task.name)
                return found
        shared = self._shared(task.structure)
        made = shared.engine.place(assemble_task(self._folder, self.index, task, shared.base))
        with self._lock:
            self._weights[task.name] = made
            self._weights.move_to_end(task.name)
            self._make_room(shared)
        return made

    def resident(self) -> tuple[str, ...]:
        """Return the tasks whose weights are in memory, those used least recently first."""
        with self._lock:
            return tuple(self._weights)

    def close(self) -> None:
        """Close the shared engines. Calling it twice is harmless."""
        with self._lock:
            self._closed = True
            self._weights.clear()
            opened, self._opened = self._opened, {}
        for shared in opened.values():
            if shared.engine not in self._given.values():
                shared.engine.close()

    def _shared(self, number: int) -> _Shared:
        with self._lock:
            if self._closed:
                raise EngineError(
                    "the set of tasks is closed",
                    where=str(self._folder),
                    fix="use its tasks inside its `with` statement",
                )
            if number not in self._opened:
                structure = self.index.structures[number]
                self._opened[number] = self._open(structure)
            return self._opened[number]

    def _open(self, structure: Structure) -> _Shared:
        """Open a structure of the folder after checking it against the index."""
        given = self._given.get(structure.graph.file)
        path, manifest = artefact_of(self._folder, self.index, structure)
        engine = open_engine(path, options=self._options) if given is None else given
        return _Shared(structure, engine, manifest, read_base(self._folder, structure))

    def _make_room(self, shared: _Shared) -> None:
        """Drop the weights used least recently; a run that uses them keeps them until it ends."""
        limit = self._limit_bytes
        if limit is None:
            if shared.base:
                return
            limit = int(RESIDENT_SHARE * shared.manifest.total_bytes)
        sizes = {
            name: sum(int(array.nbytes) for array in feeds.values())
            for name, feeds in self._weights.items()
        }
        while len(self._weights) > 1 and sum(sizes.values()) > limit:
            name, _ = self._weights.popitem(last=False)
            del sizes[name]


class _Shared:
    """An engine that tasks share, and what its inputs start from."""

    def __init__(
        self,
        structure: Structure,
        engine: Engine,
        manifest: Manifest,
        base: Mapping[str, FloatArray],
    ) -> None:
        self.structure, self.engine, self.manifest, self.base = structure, engine, manifest, base
        self.filled = frozenset(wanted.name for wanted in structure.inputs)


def artefact_of(folder: Path, index: TaskIndex, structure: Structure) -> tuple[Path, Manifest]:
    """Return what runs for a structure, with its manifest: the engine of its graph, or the graph.

    Opening it checks its bytes against the manifest.

    Raises:
        TrustError: It is not of the graph that the index names.
    """
    graph = folder / structure.graph.file
    target = load_target(index.target)
    built = default_path(graph, target)
    path = built if built.exists() else graph
    manifest = read_manifest(path, verify=False)
    said = manifest.sha256 if path == graph else _parent_of(manifest)
    if said != structure.graph.sha256:
        raise TrustError(
            f"{path.name} {'is' if path == graph else 'was built from'} {said[:16]}…, the index "
            f"names {structure.graph.sha256[:16]}…",
            where=str(path),
            fix="export the tasks again, or copy the whole folder"
            if path == graph
            else f"build it again: {command('build', graph, '--target', target.name, '--force')}",
        )
    return path, manifest


def _parent_of(manifest: Manifest) -> str:
    """Return the hash of the graph that an engine was built from."""
    return next((p.sha256 for p in manifest.parents if p.role == "graph"), "nothing")


class TaskEngine(EngineBase):
    """One task of a set; implements `engines.contract.Engine`, with the images as its only input.

    Closing it frees nothing: the engine belongs to the set.
    """

    def __init__(self, tasks: TaskSet, task: Task, shared: _Shared) -> None:
        engine = shared.engine
        outputs = tuple(
            TensorSpec(name=spec.name, shape=(spec.shape[0], task.classes), dtype=spec.dtype)
            if spec.name == engine.outputs[0].name
            else spec
            for spec in engine.outputs
        )
        super().__init__(
            EngineSpec(
                name=task.name,
                inputs=tuple(spec for spec in engine.inputs if spec.name not in shared.filled),
                outputs=outputs,
                batch_range=shared.manifest.batch_range,
            )
        )
        self.task = task
        self._tasks, self._engine = tasks, engine
        self._manifest = shared.manifest

    def activate(self) -> None:
        """Assemble the task's weights now, so that the first run need not."""
        self._tasks.weights(self.task)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run once and return the outputs by name; see `engines.contract.Engine`."""
        checked, _ = self._check(feeds)
        return self._cut(self._engine.run({**checked, **self._tasks.weights(self.task)}))

    def bind(self, feeds: Mapping[str, Array]) -> Callable[[], None]:
        """Put images and the task's weights in place; see `engines.contract.Engine`."""
        checked, _ = self._check(feeds)
        return self._engine.bind({**checked, **self._tasks.weights(self.task)})

    def describe(self) -> dict[str, str]:
        """Return what a measurement must record about the shared engine, and the task."""
        return {
            **self._engine.describe(),
            "artefact": self._manifest.file,
            "task": self.task.name,
        }

    def manifest(self) -> Manifest:
        """Return the manifest of the shared artefact, with this task's labels."""
        return dataclasses.replace(self._manifest, labels=self.task.labels)

    def _cut(self, outputs: dict[str, Array]) -> dict[str, Array]:
        """Leave out the logits that fill a graph of more classes."""
        name = self.outputs[0].name
        return {**outputs, name: np.ascontiguousarray(outputs[name][:, : self.task.classes])}

    def _free(self) -> None:
        """Nothing of its own."""
