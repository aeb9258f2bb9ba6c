"""`sweep`: a grid of points, computed by many workers, each step of it once."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engines import storage
from engines.plurals import counted
from fpet_export.reporter import SILENT, Reporter
from fpet_export.sweep import refusals, results
from fpet_export.sweep.grid import Point, points_of, steps_of
from fpet_export.sweep.request import SweepRequest as SweepRequest
from fpet_export.sweep.results import Result
from fpet_export.sweep.steps import ReferenceStep, Step
from fpet_export.sweep.store import GRID, PAGE, SCHEMA, Store

_AXES = ("runs", "merges", "batches", "precisions", "targets")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Swept:
    """What a sweep left.

    Attributes:
        folder: Where it lies.
        results: One a point, in the order of the grid.
        front: Names of the points that no other beats.
        page: The HTML page.
        next: Commands to type next.
    """

    folder: Path
    results: tuple[Result, ...]
    front: frozenset[str]
    page: Path
    next: Sequence[str] = ()

    @property
    def exit_code(self) -> int:
        """That of the first point that failed, 0 where none did."""
        return next((one.failure.exit_code for one in self.results if one.failure), 0)

    def to_json(self) -> dict[str, Any]:
        """Return the same as plain values."""
        return {
            "folder": str(self.folder),
            "page": str(self.page),
            "points": [
                {**one.to_json(), "on_front": one.point.name in self.front} for one in self.results
            ],
        }


def sweep(request: SweepRequest, reporter: Reporter = SILENT) -> Swept:
    """Compute what is missing of a grid, and compare its points.

    A point that fails is a result like the others, and the exit code tells.

    Raises:
        UsageError: The grid makes no sense, or the folder holds results of other inputs.
        InputError: A file that is named is not there.
        MissingDependencyError: dask is not installed.
        RemoteError: The scheduler does not answer, or its workers do not fit.
    """
    refusals.require_packages()
    refusals.refuse_grid(request)
    points, store = points_of(request), Store(request.out.absolute())
    with store.alone():
        gone = refusals.clear_stale(request, points, store)
        if gone:
            reporter.step("again", f"{counted(gone, 'step')} of earlier sweeps removed")
        _write_grid(request, points, store, reporter)
        known = results.written(points, store)
        left = len(points) - len(known)
        reporter.step("grid", f"{counted(len(points), 'point')} · {left} to compute")
        if left:
            _compute(request, points, store, reporter)
        known = results.written(points, store)
        _say_inputs(points, store, reporter)
        found = [known[one.name] for one in points]
        front = results.front_of(found)
        from fpet_export.sweep import report

        commands = report.reported(request, found, front, store, reporter)
    return Swept(
        folder=request.out,
        results=tuple(found),
        front=frozenset(front),
        page=request.out / PAGE,
        next=commands,
    )


def _write_grid(
    request: SweepRequest, points: Sequence[Point], store: Store, reporter: Reporter
) -> None:
    """Write down what is asked for, and say how it differs from the last time."""
    now = {name: list(getattr(request, name)) for name in _AXES}
    before = store.grid()
    if before is not None:
        names = set(before["points"])
        new = sum(one.name not in names for one in points)
        old = len(names - {one.name for one in points})
        for name, asked in now.items():
            if before["grid"].get(name) != asked:
                told = ",".join(map(str, before["grid"].get(name) or ["as trained"]))
                reporter.step("grid", f"--{name} was {told} the last time", passed=None)
        if old:
            reporter.step(
                "grid", f"{counted(old, 'result')} of it stay and are not shown", passed=None
            )
        if new:
            reporter.step("grid", f"{counted(new, 'point')} were not in it")
    document = {
        "schema": SCHEMA,
        "command": list(request.command),
        "grid": now,
        "points": [one.name for one in points],
    }
    storage.write_text(store.root / GRID, json.dumps(document, indent=1) + "\n")


def _compute(
    request: SweepRequest, points: Sequence[Point], store: Store, reporter: Reporter
) -> None:
    of_step: dict[str, list[Point]] = {}
    for point in points:
        for step in point.steps:
            of_step.setdefault(step.name, []).append(point)

    def settled(step: Step) -> None:
        record = store.record(step.name)
        if record is not None and record.failure is not None:
            reporter.step("failed", f"{step.name}: {record.failure.what}", passed=False)
        results.written(of_step[step.name], store)

    from fpet_export.sweep.driving import drive

    before = store.unfinished()
    drive(request, points, store, reporter, settled)
    dead = store.unfinished() - before
    if dead:
        reporter.step(
            "workers", f"{counted(dead, 'step')} had been begun by workers that died", passed=None
        )


def _say_inputs(points: Sequence[Point], store: Store, reporter: Reporter) -> None:
    """Say which images were left out, and what the images of each run are."""
    for step in steps_of(points):
        record = store.record(step.name)
        if record is None:
            continue
        reporter.unreadable(record.unreadable)
        if isinstance(step, ReferenceStep) and record.failure is None:
            facts = record.facts
            told = f"{facts['images']}" + (
                f" · labels {facts['labels']}" if facts["labels"] else ""
            )
            reporter.step(step.name.partition("/")[2], told)
