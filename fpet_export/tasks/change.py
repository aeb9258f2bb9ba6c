"""A folder of tasks that exists: tasks added, replaced and dropped, and all others as they were.

Everything is made beside the folder's files, under names that its index does not know. Then the
index is replaced, in one step: before it the folder is what it was, after it what it shall be,
whatever stops the program. Files that no index names any more are removed last.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import itertools
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from engines import storage
from engines.engine import load_target
from engines.errors import CheckpointError, InputError, UsageError
from engines.manifest import Manifest, Preprocessing, manifest_path, read_manifest
from engines.tasks.check import check_path
from engines.tasks.index import (
    FILE,
    StoredFile,
    Structure,
    Task,
    TaskIndex,
    check_names,
    read_index,
    write_index,
)
from engines.tasks.weights import assemble_task, read_base
from fpet_export.stages import Adapted
from fpet_export.tasks.export import (
    Runs,
    common_backbone,
    differing,
    group_runs,
    remove_file,
    remove_graph,
    write_graph,
)
from fpet_export.tasks.file import delta_file, parts_of, write_task
from fpet_export.tasks.options import TaskOptions
from fpet_export.tasks.task_parity import PARITY_FILE

_IN_GRAPH = ("layout", "dtype", "in_graph")
"""What a graph adds to a run's preprocessing."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Staged:
    """Tasks that are ready to become part of a folder.

    Attributes:
        path: A folder of these tasks alone, to be compared before anything changes.
        options: How its graphs were written.
        index: Index of the whole folder with them.
        graphs: Files of graphs that are new.
    """

    path: Path
    options: TaskOptions
    index: TaskIndex
    graphs: tuple[str, ...]
    _folder: Path
    _before: bytes

    def commit(self) -> TaskIndex:
        """Put the tasks into the folder, in one step.

        Raises:
            UsageError: Somebody else changed the folder meanwhile.
            InputError: It cannot be written.
        """
        _require_unchanged(self._folder, self._before)
        own = read_index(self.path)
        for structure in own.structures:
            if structure.graph.file in self.graphs:
                if structure.base is not None:
                    _move(self.path, self._folder, structure.base.file)
                _move(self.path, self._folder, structure.graph.file)
        for task in own.tasks:
            _move(self.path, self._folder, task.delta.file)
        return _replace_index(self._folder, self.index, self._before)


@contextlib.contextmanager
def staged(
    folder: Path, runs: Runs, options: TaskOptions, *, new_graphs: bool = False
) -> Iterator[Staged]:
    """Make tasks for a folder that exists; nothing in it changes before `Staged.commit`.

    Args:
        folder: Folder of the tasks.
        runs: Name to run.
        options: Only the fields that are a task's own count: `half`, `labels` and `command`,
            and `force`, which replaces tasks of the same names. The rest is the folder's.
        new_graphs: Write a further graph, with its own copy of the backbone, for runs that none of
            the folder's graphs takes.

    Raises:
        TrustError: It is not a folder of tasks, or a file is not what its index says.
        UsageError: A name is taken, or no graph takes a run.
        CheckpointError: A run has another backbone or preprocessing.
    """
    before, index = _read(folder)
    _require_free(index, runs, folder, force=options.force)
    manifests = [read_manifest(folder / one.graph.file) for one in index.structures]
    _require_same_backbone(index, manifests[0], runs)
    options = _like(index, manifests[0], options)
    with tempfile.TemporaryDirectory(prefix=".tasks.", suffix=".part", dir=folder) as scratch:
        path = Path(scratch)
        _link(folder, path, index, manifests)
        maker = _Maker(path, index, manifests, options)
        unfit = {name: reasons for name, run in runs.items() if (reasons := maker.fit(name, run))}
        if unfit and not new_graphs:
            raise _unfit(folder, unfit)
        old = len(index.structures)
        for layout, names in group_runs({name: runs[name] for name in unfit}, options.resolved):
            maker.write_graph(runs[names[0]], layout)
            for name in names:
                maker.write(name, runs[name], len(maker.structures) - 1)
        structures = tuple(maker.structures)
        made = [maker.tasks[name] for name in runs]
        own = dataclasses.replace(index, structures=structures, tasks=tuple(made))
        write_index(path, own)
        yield Staged(
            path=path,
            options=options,
            index=_changed(index, structures, made, options.command),
            graphs=tuple(one.graph.file for one in structures[old:]),
            _folder=folder,
            _before=before,
        )


def drop_tasks(folder: Path, names: Sequence[str], *, command: Sequence[str] = ()) -> TaskIndex:
    """Remove tasks from a folder, in one step, and graphs that serve no other.

    Raises:
        TrustError: It is not a folder of tasks.
        UnknownNameError: There is no such task.
        UsageError: None would be left.
    """
    before, index = _read(folder)
    gone = index.chosen(names, where=str(folder))
    kept = tuple(task for task in index.tasks if task.name not in gone)
    if not kept:
        raise UsageError(
            "no task would be left", where=str(folder), fix="remove the folder instead"
        )
    changed = dataclasses.replace(index, tasks=kept, command=tuple(command), created=_now())
    return _replace_index(folder, changed, before)


class _Maker:
    """Writes tasks into a staging folder, for the graphs that are there."""

    def __init__(
        self, path: Path, index: TaskIndex, manifests: list[Manifest], options: TaskOptions
    ) -> None:
        self._path, self._index, self._options = path, index, options
        self._manifests = list(manifests)
        self.structures = list(index.structures)
        self.tasks: dict[str, Task] = {}

    def fit(self, name: str, run: Adapted) -> list[str]:
        """Write a task for the first graph that takes it; return why none does, if none does."""
        reasons = []
        for number, structure in enumerate(self.structures):
            reason = _other_structure(structure, run)
            if not reason:
                task = self.write(name, run, number)
                try:
                    base = read_base(self._path, structure)
                    assemble_task(self._path, self._index, task, base)
                    return []
                except InputError as error:
                    reason = error.what
                    del self.tasks[name]
            reasons.append(f"{structure.graph.file}: {reason}")
        return reasons

    def write(self, name: str, run: Adapted, number: int) -> Task:
        """Write a task for one graph, under a name that no other task's file has or had."""
        others = (task for key, task in self.tasks.items() if key != name)
        known = {task.delta.file.lower() for task in (*self._index.tasks, *others)}
        files = (delta_file(name, version) for version in itertools.count(1))
        self.tasks[name] = write_task(
            self._path,
            name,
            run,
            structure=number,
            graph=dataclasses.replace(
                self._manifests[number], command=tuple(self._options.command), created=_now()
            ),
            backbone=self._index.backbone,
            half=self._options.half,
            labels=self._options.labels.get(name, ()),
            file=next(file for file in files if file.lower() not in known),
        )
        return self.tasks[name]

    def write_graph(self, run: Adapted, layout: Any) -> None:
        """Write a further graph."""
        taken = [one.graph.file for one in self.structures]
        structure, manifest = write_graph(self._path, run, layout, self._options, taken=taken)
        self.structures.append(structure)
        self._manifests.append(manifest)


def _read(folder: Path) -> tuple[bytes, TaskIndex]:
    """Return the index, and its bytes to see later whether it still is the same."""
    index = read_index(folder)
    return (folder / FILE).read_bytes(), index


def _require_unchanged(folder: Path, before: bytes) -> None:
    if (folder / FILE).read_bytes() != before:
        raise UsageError(
            "the folder was changed meanwhile",
            where=str(folder / FILE),
            fix="run the command again",
        )


def _require_free(index: TaskIndex, runs: Runs, folder: Path, *, force: bool) -> None:
    taken = [name for name in runs if name in index.names]
    if taken and not force:
        raise UsageError(
            f"the folder holds a task {taken[0]!r} already",
            where=str(folder),
            fix="choose another name, NAME=RUN, or add --force to replace it",
        )
    check_names([*(name for name in index.names if name not in runs), *runs])


def _require_same_backbone(index: TaskIndex, graph: Manifest, runs: Runs) -> None:
    found, first = common_backbone(runs), next(iter(runs))
    if found != index.backbone:
        raise CheckpointError(
            f"{first!r} was tuned on another backbone ({runs[first].backbone.source}, "
            f"{found[:16]}…) than the tasks of this folder ({index.backbone[:16]}…)",
            where=first,
            fix="export the runs of each backbone into a folder of their own",
        )
    assert graph.preprocessing is not None, "every shared graph states it"
    wanted = _of_a_run(graph.preprocessing, runs[first].preprocessing)
    if wanted != runs[first].preprocessing:
        raise CheckpointError(
            f"{first!r} prepares images differently from the tasks of this folder: "
            f"{differing(runs[first].preprocessing, wanted)}",
            where=first,
            fix="the preprocessing is part of the shared graph: export this run by itself",
        )


def _of_a_run(graph: Preprocessing, run: Preprocessing) -> Preprocessing:
    """Return a graph's preprocessing without what the graph itself decides."""
    return dataclasses.replace(graph, **{name: getattr(run, name) for name in _IN_GRAPH})


def _like(index: TaskIndex, graph: Manifest, options: TaskOptions) -> TaskOptions:
    """Return options by which the folder's graphs were written."""
    assert graph.preprocessing is not None, "every shared graph states it"
    first = graph.inputs[0].shape[0]
    layout: Any = f"uint8-{graph.preprocessing.layout.lower()}"
    precision: Any = graph.precision
    return dataclasses.replace(
        options,
        target=index.target,
        precision=precision,
        batch=first if isinstance(first, int) else graph.batch_range or 1,
        input=layout if graph.preprocessing.dtype == "uint8" else "float32",
        opset=graph.opset,
    )


def _other_structure(structure: Structure, run: Adapted) -> str:
    """Return what a graph lacks for a run; nothing where its tensors must be tried."""
    merge = run.checkpoint.merge_block
    if structure.merge_block != merge:
        return f"merges {_after(structure.merge_block)}, the run {_after(merge)}"
    parts = {piece.part for wanted in structure.inputs for piece in wanted.pieces}
    lacking = [part for part in parts_of(run) if part not in parts]
    return f"has no inputs for {' and '.join(lacking)}" if lacking else ""


def _after(block: int | None) -> str:
    return "nothing" if block is None else f"after block {block}"


def _unfit(folder: Path, unfit: dict[str, list[str]]) -> UsageError:
    name, reasons = next(iter(unfit.items()))
    return UsageError(
        f"no graph of this folder takes {name!r}: {'; '.join(reasons)}",
        where=str(folder),
        fix="write another graph for it, with a copy of the backbone: --new-graph; or export all "
        "runs again, together",
    )


def _link(folder: Path, scratch: Path, index: TaskIndex, manifests: list[Manifest]) -> None:
    """Show the folder's graphs in the staging folder, too."""
    for structure, manifest in zip(index.structures, manifests, strict=True):
        graph = folder.resolve() / structure.graph.file
        files = [graph, manifest_path(graph)]
        files += [graph.with_name(one.file) for one in manifest.companions]
        files += [] if structure.base is None else [folder.resolve() / structure.base.file]
        for file in files:
            (scratch / file.name).symlink_to(file)


def _changed(
    index: TaskIndex, structures: tuple[Structure, ...], made: list[Task], command: Sequence[str]
) -> TaskIndex:
    """Return the index with these tasks, each in the place of the one of its name."""
    by_name = {task.name: task for task in made}
    kept = [by_name.pop(task.name, task) for task in index.tasks]
    return dataclasses.replace(
        index,
        structures=structures,
        tasks=(*kept, *by_name.values()),
        command=tuple(command),
        created=_now(),
    )


def _move(source: Path, folder: Path, file: str) -> None:
    """Move a file with its manifest and companions to its place; the file itself comes last."""
    path = source / file
    parts = [path]
    if manifest_path(path).exists():
        manifest = read_manifest(path)
        parts = [path.with_name(one.file) for one in manifest.companions]
        parts += [manifest_path(path), path]
    with storage.atomic_path(folder / file) as temporary:
        for part in parts:
            part.replace(temporary.with_name(part.name))


def _replace_index(folder: Path, index: TaskIndex, before: bytes) -> TaskIndex:
    """Write a folder's new index without graphs that serve nobody; remove what it lost."""
    _require_unchanged(folder, before)
    earlier = read_index(folder)
    used = sorted({task.structure for task in index.tasks})
    index = dataclasses.replace(
        index,
        structures=tuple(index.structures[number] for number in used),
        tasks=tuple(
            dataclasses.replace(task, structure=used.index(task.structure)) for task in index.tasks
        ),
    )
    write_index(folder, index)
    write_parity(folder, index)
    kept: set[StoredFile] = {task.delta for task in index.tasks}
    for task in earlier.tasks:
        if task.delta not in kept:
            remove_file(folder / task.delta.file)
            check_path(folder, task.name).unlink(missing_ok=True)
    graphs = {structure.graph.file for structure in index.structures}
    for structure in earlier.structures:
        if structure.graph.file not in graphs:
            remove_graph(folder, structure, load_target(index.target))
    return index


def write_parity(folder: Path, index: TaskIndex) -> None:
    """Write the parity of all tasks as their manifests have it."""
    tables: dict[str, Any] = {}
    for task in index.tasks:
        for kind, table in (read_manifest(folder / task.delta.file).parity or {}).items():
            whole = tables.setdefault(kind, {**table, "images": [], "rows": []})
            whole["images"] += [table["images"]]
            whole["rows"] += table["rows"]
    for table in tables.values():
        table["images"] = ", ".join(dict.fromkeys(table["images"]))
    storage.write_text(folder / PARITY_FILE, json.dumps(tables, indent=1) + "\n")


def _now() -> str:
    return dt.datetime.now(dt.timezone.utc).isoformat(timespec="seconds")
