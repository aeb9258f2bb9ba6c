"""`tasks --add` and `tasks --drop`: a folder of tasks that exists, changed in one step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from engines.commands import command
from engines.engine import default_path, load_target
from engines.errors import UsageError
from engines.precisions import FP32
from engines.tasks.index import TaskIndex, read_index
from fpet_export.reporter import Reporter
from fpet_export.steps import next_commands, parity_report, usable
from fpet_export.steps.runs import describe
from fpet_export.tasks import by_task, task_parity, verify
from fpet_export.tasks.change import drop_tasks, staged
from fpet_export.tasks.request import TasksOutcome, TasksRequest, load, prepare

_OF_THE_GRAPHS = {
    "target": None,
    "precision": FP32,
    "batch": 1,
    "input": "float32",
    "opset": None,
}
"""What the folder's graphs have decided, with what an option is when it is not given."""


def add(request: TasksRequest, reporter: Reporter) -> TasksOutcome:
    """Put runs into the folder, after every one was compared."""
    folder = request.out
    before = read_index(folder)  # before a backbone is read
    for name, unset in _OF_THE_GRAPHS.items():
        if getattr(request, name) != unset:
            raise UsageError(
                f"--{name} cannot change with --add: the graphs of the folder have settled it",
                where=f"--{name}",
                fix="leave it out, or write another folder: without --add",
            )
    runs = load(request, reporter)
    stay = [name for name in before.names if name not in runs]
    usable.require_tasks(folder, before, stay, request, reporter)
    images, how = prepare(request, runs, reporter)
    for task in before.tasks:
        if task.labels and task.name in runs and not how.labels[task.name]:
            reporter.step(
                "labels",
                f"the class names of the task that {task.name} replaces are not taken over, "
                f"because they may not be its own; state them: --labels {task.name}=FILE",
                passed=None,
            )
    with staged(folder, runs, how, new_graphs=request.new_graph) as change:
        for file in change.graphs:
            size = (change.path / file).stat().st_size
            reporter.step("graph", f"{file} {size / 1e6:.1f} MB, a further one")
        with reporter.progress("parity of every task", len(runs)) as advance:
            found = verify.verify_tasks(
                change.path, runs, images, change.options,
                progress=lambda name, done, total: advance(1),
            )  # fmt: skip
        for one in found:
            passed = one.reference.passed and one.single.passed
            reporter.step(one.name, describe(runs[one.name]), passed=passed)
        for table in task_parity.tables(found):
            parity_report.show_table(table, reporter, heading="task")
        task_parity.require(found)
        index = change.commit()
    _say_engines(folder, index, reporter)
    return TasksOutcome(
        folder=folder, index=index, found=found, next=tuple(_next(folder, list(runs), request))
    )


def drop(request: TasksRequest, names: Sequence[str], reporter: Reporter) -> TasksOutcome:
    """Take tasks out of the folder."""
    folder = request.out
    before = read_index(folder)
    index = drop_tasks(folder, names, command=request.command)
    reporter.step("drop", ", ".join(name for name in before.names if name not in index.names))
    kept = {structure.graph.file for structure in index.structures}
    for structure in before.structures:
        if structure.graph.file not in kept:
            reporter.step("graph", f"{structure.graph.file} served no other task and is removed")
    return TasksOutcome(folder=folder, index=index, next=(command("inspect", folder),))


def _next(folder: Path, tasks: Sequence[str], request: TasksRequest) -> list[str]:
    return by_task.predict_first(folder, tasks, request) or [command("inspect", folder)]


def _say_engines(folder: Path, index: TaskIndex, reporter: Reporter) -> None:
    """Say which engines serve the new tasks, too, and which graphs have none yet."""
    paths = [
        (folder / structure.graph.file, load_target(index.target)) for structure in index.structures
    ]
    built = [default_path(graph, target) for graph, target in paths]
    if not any(engine.exists() for engine in built):
        return
    for (graph, target), engine in zip(paths, built, strict=True):
        if engine.exists():
            reporter.step("engine", f"{engine.name} stays: {graph.name} has not changed")
        else:
            reporter.step(
                "engine",
                f"none of {graph.name}: {next_commands.build_or_bundle(graph, target)}",
                passed=None,
            )
