"""Many runs of one backbone in one folder: `write` and what it is asked, `TasksRequest`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from engines import storage
from engines.commands import command
from engines.errors import UsageError
from engines.tasks.index import FILE
from fpet_export.reporter import SILENT, Reporter
from fpet_export.steps import check_images, exporting, next_commands, parity_report
from fpet_export.tasks import by_task, edit, report
from fpet_export.tasks.request import TasksOutcome, TasksRequest, load, prepare

if TYPE_CHECKING:
    from engines.targets import Target

__all__ = ["TasksOutcome", "TasksRequest", "write"]


def write(request: TasksRequest, reporter: Reporter = SILENT) -> TasksOutcome:
    """Write a folder of tasks, add runs to it or drop tasks from it, and judge every task.

    Raises:
        UsageError: Options contradict each other, or a run fits no graph of the folder.
        CheckpointError: A run cannot be read, contradicts itself or leaves a fact open.
        ParityError: A task drifts from its float64 reference or from its own export.
    """
    from fpet_export.tasks import verify
    from fpet_export.tasks.export import export_tasks

    _require_one_kind(request)
    check_images.require_inputs(request)
    if request.drop is not None:
        return edit.drop(request, request.drop, reporter)
    if request.add:
        return edit.add(request, reporter)
    pages = [] if request.html is None else [request.html]
    for path in (request.out / FILE, request.out / verify.PARITY_FILE, *pages):
        storage.refuse_overwrite(path, force=request.force)
    runs = load(request, reporter)
    images, how = prepare(request, runs, reporter)
    index = export_tasks(runs, request.out, how)
    for structure in index.structures:
        size = (request.out / structure.graph.file).stat().st_size
        count = sum(index.structures[task.structure] is structure for task in index.tasks)
        reporter.step(
            "graph",
            f"{structure.graph.file} {size / 1e6:.1f} MB · {len(structure.inputs)} inputs of a "
            f"task · serves {count}",
        )
    with reporter.progress("parity of every task", len(runs)) as advance:
        found = verify.verify_tasks(
            request.out, runs, images, how, progress=lambda name, done, total: advance(1)
        )
    for task, one in zip(index.tasks, found, strict=True):
        size = (request.out / task.delta.file).stat().st_size
        reporter.step(
            task.name,
            f"{exporting.describe(runs[task.name])} · {size / 1e3:.0f} kB",
            passed=one.reference.passed and one.single.passed,
        )
    for table in verify.tables(found):
        parity_report.show_table(table, reporter, heading="task")
    if request.html is not None:
        report.write(
            request.html,
            folder=request.out,
            index=index,
            found=found,
            steps=reporter.steps,
            is_random=any(adapted.quality == "random" for adapted in runs.values()),
            force=request.force,
        )
        reporter.step("page", str(request.html))
    verify.require(found)
    return TasksOutcome(
        folder=request.out,
        index=index,
        found=found,
        next=tuple(_next(request, index.names, how.place)),
    )


def _next(request: TasksRequest, tasks: Sequence[str], target: Target) -> list[str]:
    """Return how to go on with the folder: with a task of it, and with its engines."""
    folder = request.out
    engines = command("build", folder)
    if not next_commands.builds_here(target):
        engines = next_commands.bundle(folder)
    return [engines, *by_task.predict_first(folder, tasks, request)]


def _require_one_kind(request: TasksRequest) -> None:
    """Refuse options that contradict each other."""
    see = "see `fpet-export tasks --help`"
    if request.drop is None and not request.runs:
        raise UsageError(
            "the following arguments are required: RUN", where="fpet-export tasks", fix=see
        )
    if request.drop is not None and (request.runs or request.add):
        raise UsageError(
            "--add and --drop cannot be given together",
            where="--drop",
            fix="do one after the other: leave out the runs and --add, or --drop",
        )
    if request.html is not None and (request.add or request.drop is not None):
        raise UsageError(
            "--html writes the page of a folder that is being written",
            where="--html",
            fix="leave --html out; to see a folder that exists: fpet-export inspect FOLDER",
        )
    if request.new_graph and not request.add:
        raise UsageError(
            "every graph of a new folder is new", where="--new-graph", fix="leave it out"
        )
