"""What a folder of tasks is written from: `TasksRequest`, the runs and images that it names."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from engines.errors import UsageError
from engines.precisions import FP16, FP32, FactorName
from engines.tasks.index import check_names
from fpet_export.reporter import Reporter
from fpet_export.requests import (
    AllowFailed,
    GraphInput,
    RunFacts,
    TaskImages,
    Writing,
    named,
)
from fpet_export.steps.parity_images import DEFAULT_IMAGES
from fpet_export.steps.runs import load_run, run_of
from fpet_export.tasks import by_task
from fpet_export.tasks.options import TaskOptions
from fpet_export.tasks.task_parity import TaskParity, tables_json

if TYPE_CHECKING:
    from engines.imaging.images import ImageSet
    from engines.tasks.index import TaskIndex
    from fpet_export.stages import Adapted

_ADD_THEM = "to put further runs into it, name them and this folder: tasks RUN -o {path} --add"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TasksRequest(RunFacts, GraphInput, TaskImages, AllowFailed, Writing):
    """A folder of tasks to write or to change.

    Attributes:
        runs: Runs, each as RUN or NAME=RUN.
        out: The folder.
        html: Also one page; None writes none.
        add: Put the runs into a folder that exists.
        new_graph: With `add`: write a further graph for runs that none of the folder takes.
        drop: Tasks to take out of a folder that exists.
        target: Where the graph will run; None is "cpu".
        precision: Type of the shared graph, and of what tasks feed to it.
        half: FP16 keeps dense adapter factors in it; None in float32.
    """

    out: Path
    runs: tuple[str, ...] = ()
    html: Path | None = None
    add: bool = False
    new_graph: bool = False
    drop: tuple[str, ...] | None = None
    target: str | None = None
    precision: FactorName = dataclasses.field(
        default=FP32, metadata={"choices": get_args(FactorName)}
    )
    half: FactorName | None = dataclasses.field(default=None, metadata={"choices": (FP16,)})


@dataclasses.dataclass(frozen=True, kw_only=True)
class TasksOutcome:
    """A folder of tasks, as it is now.

    Attributes:
        folder: Where it lies.
        index: What it holds.
        found: How each task that was written compares with its run; empty where tasks were dropped.
        next: Commands to type next.
    """

    folder: Path
    index: TaskIndex
    found: Sequence[TaskParity] = ()
    next: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "folder": str(self.folder),
            "index": dataclasses.asdict(self.index),
            "parity": tables_json(self.found) if self.found else None,
        }


def load(request: TasksRequest, reporter: Reporter) -> dict[str, Adapted]:
    """Load the runs by their names; the backbone is read once.

    Raises:
        UsageError: Something else than logits is asked for: tasks that share a graph differ in
            their heads.
    """
    if request.head not in (None, "logits"):
        raise UsageError(
            f"tasks share one graph and bring a head each; {request.head} have none",
            where=f"--head {request.head}",
            fix="leave --head out, or export the runs one by one: fpet-export export",
        )
    given = [named(text) for text in request.runs]
    check_names(name for name, _ in given if name is not None)
    loaded: list[tuple[str, Adapted]] = []
    backbone = None
    for name, text in given:
        adapted = load_run(run_of(text, request), instead=_ADD_THEM, backbone=backbone)
        if request.backbone is not None:
            backbone = adapted.backbone
        loaded.append((name or adapted.checkpoint.name, adapted))
    check_names(name for name, _ in loaded)
    runs = dict(loaded)
    first = next(iter(runs.values()))
    reporter.step("backbone", f"{first.backbone.source} · {first.model.spec.describe()}")
    if any(adapted.quality == "random" for adapted in runs.values()):
        reporter.step("weights", "random: these tasks are good for speed only", passed=None)
    return runs


def prepare(
    request: TasksRequest, runs: dict[str, Adapted], reporter: Reporter
) -> tuple[dict[str, ImageSet], TaskOptions]:
    """Return the images of every task, and what the request asks for.

    Class names are checked before anything is computed.
    """
    known = by_task.known_by_task(
        request, {name: run.model.spec.classes for name, run in runs.items()}
    )
    images = by_task.images_by_task(
        request,
        {name: adapted.preprocessing for name, adapted in runs.items()},
        known,
        reporter,
        default=DEFAULT_IMAGES,
    )
    how = TaskOptions(
        target=request.target or "cpu",
        precision=request.precision,
        half=request.half or FP32,
        batch=request.batch,
        input=request.input_kind,
        opset=request.opset,
        force=request.force,
        labels={name: images[name].class_names or known[name].names for name in runs},
        command=request.command,
    )
    return images, how
