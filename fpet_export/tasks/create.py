"""`tasks` without `--add` or `--drop`: a folder of tasks is written."""

from __future__ import annotations

from collections.abc import Sequence

from engines.commands import command
from engines.targets import Target
from fpet_export.reporter import Reporter
from fpet_export.steps import next_commands, parity_report
from fpet_export.steps.runs import describe
from fpet_export.tasks import by_task, report, task_parity, verify
from fpet_export.tasks.export import export_tasks
from fpet_export.tasks.request import TasksOutcome, TasksRequest, load, prepare


def create(request: TasksRequest, reporter: Reporter) -> TasksOutcome:
    """Write the folder and judge every task; what stands in the way was refused before."""
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
            f"{describe(runs[task.name])} · {size / 1e3:.0f} kB",
            passed=one.reference.passed and one.single.passed,
        )
    for table in task_parity.tables(found):
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
    task_parity.require(found)
    return TasksOutcome(
        folder=request.out,
        index=index,
        found=found,
        next=tuple(_next(request, index.names, how.resolved)),
    )


def _next(request: TasksRequest, tasks: Sequence[str], target: Target) -> list[str]:
    """Return how to go on with the folder: with a task of it, and with its engines."""
    folder = request.out
    engines = command("build", folder)
    if not next_commands.builds_here(target):
        engines = next_commands.bundle(folder)
    return [engines, *by_task.predict_first(folder, tasks, request)]
