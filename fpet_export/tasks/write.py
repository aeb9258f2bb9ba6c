"""Many runs of one backbone in one folder: `write` and what it is asked, `TasksRequest`."""

from __future__ import annotations

from engines import storage
from engines.errors import UsageError
from engines.tasks.index import FILE
from fpet_export.reporter import SILENT, Reporter
from fpet_export.steps import check_images
from fpet_export.tasks.request import TasksOutcome, TasksRequest
from fpet_export.tasks.task_parity import PARITY_FILE

__all__ = ["TasksOutcome", "TasksRequest", "write"]


def write(request: TasksRequest, reporter: Reporter = SILENT) -> TasksOutcome:
    """Write a folder of tasks, add runs to it or drop tasks from it, and judge every task.

    Raises:
        UsageError: Options contradict each other, or a run fits no graph of the folder.
        CheckpointError: A run cannot be read, contradicts itself or leaves a fact open.
        ParityError: A task drifts from its float64 reference or from its own export.
    """
    _require_one_kind(request)
    check_images.require_inputs(request)
    if request.drop is None and not request.add:
        pages = [] if request.html is None else [request.html]
        for path in (request.out / FILE, request.out / PARITY_FILE, *pages):
            storage.refuse_overwrite(path, force=request.force)
    from fpet_export.tasks import create, edit

    if request.drop is not None:
        return edit.drop(request, request.drop, reporter)
    if request.add:
        return edit.add(request, reporter)
    return create.create(request, reporter)


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
