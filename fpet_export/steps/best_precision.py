"""`--precision best`: the fastest artefact that keeps the promise, measured where it will run."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.measurement import Measurement
from benchmarks.measurement_file import to_document
from calibration import graph_typing
from calibration.evaluator import GraphEvaluator
from calibration.graph_typing import Typed
from calibration.table import CalibrationTable
from engines import precisions
from engines.errors import (
    BudgetError,
    ExportError,
    MissingDependencyError,
)
from engines.manifest import read_manifest
from engines.parity.outputs import runnable
from engines.parity.rows import StageParity
from engines.targets import Target
from fpet_export.reporter import Reporter
from fpet_export.requests import Typing
from fpet_export.steps import built_engine, measuring, timed_choice, typed_graph, typing_request


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidates:
    """What may be the best: everything that keeps the promise.

    Attributes:
        graphs: By precision. The first one errs least, half precision where the target has it,
            else float32: it stays unless another one is shown to be faster.
        made: The typed graphs among them, by precision.
    """

    graphs: dict[str, Path]
    made: dict[str, Typed]

    @property
    def baseline(self) -> str:
        """The precision that stays unless another one is shown to be faster."""
        return next(iter(self.graphs))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Best:
    """What was chosen.

    Attributes:
        graph: The graph that is fastest.
        precision: Its precision.
        made: The typed graphs that kept the promise, by precision, already written.
        measurement: The paired measurement; None when only one candidate was left.
    """

    graph: Path
    precision: str
    made: dict[str, Typed]
    measurement: Measurement | None

    def to_json(self) -> dict[str, object]:
        """Return what a document says about the choice."""
        return {
            "precision": self.precision,
            "candidates": {name: typed.row.sqnr_db for name, typed in self.made.items()},
            "manifest": dataclasses.asdict(read_manifest(self.graph)),
            "latency": None if self.measurement is None else to_document(self.measurement),
        }


def candidates(
    onnx: Path,
    target: Target,
    evaluator: GraphEvaluator,
    request: Typing,
    reporter: Reporter,
    *,
    table: CalibrationTable | None,
    parity_of: Callable[[StageParity], Mapping[str, Any]],
) -> Candidates:
    """Make every precision of a target, keep what keeps the promise, and say if that is one.

    Args:
        onnx: The float32 graph.
        target: Where they run.
        evaluator: Images on which the promise must hold.
        request: What is asked of them.
        reporter: Hears of each.
        table: Ranges for integers.
        parity_of: Returns what a graph's manifest keeps of its row.
    """
    made: dict[str, Typed] = {}
    graphs: dict[str, Path] = {}
    for precision in typing_request.precisions_of(request, target):
        if precision == precisions.BF16 and precisions.FP16 in made:
            continue  # the same speed and fewer digits: it is for what float16 cannot hold
        recipe = typed_graph.recipe_of(request, target, precision)
        try:
            typed = typed_graph.make(onnx, recipe, evaluator, request, reporter, table=table)
        except (BudgetError, ExportError) as error:
            reporter.step(precision, f"out: {error.what}", passed=None)
            continue
        typed_graph.report(typed, reporter)
        if not typed.row.passed:
            reporter.step(precision, f"out: {'; '.join(typed.row.failures)}", passed=None)
            continue
        made[precision] = typed
        out = typing_request.typed_path(onnx, precision)
        graphs[precision] = graph_typing.write(
            typed,
            onnx,
            out,
            table=table if recipe.quantizes else None,
            parity=parity_of(typed.row),
            target=typed_graph.target_of(typed, target),
            force=request.force,
            command=request.command,
        )
    if precisions.half_in(graphs) is None:
        graphs = {precisions.FP32: onnx, **graphs}
    found = Candidates(graphs=graphs, made=made)
    if len(graphs) == 1:
        reporter.step("best", f"{found.baseline}: no other precision meets the limits on accuracy")
    return found


def choose(found: Candidates, target: Target, request: Typing, reporter: Reporter) -> Best:
    """Measure the candidates on this machine, and take the fastest.

    Raises:
        MeasurementError: The measurement was not valid.
    """
    baseline, graphs = found.baseline, found.graphs
    if len(graphs) == 1:
        return Best(graph=graphs[baseline], precision=baseline, made=found.made, measurement=None)
    measurement = timed_choice.measured(graphs, target, request, reporter)
    timed_choice.require_valid(
        measurement,
        where=f"target {target.name}",
        fix="close other programs on this machine, and try again",
    )
    precision = timed_choice.fastest(measurement, tuple(graphs))
    reporter.step("best", verdict(measurement, precision))
    return Best(
        graph=graphs[precision], precision=precision, made=found.made, measurement=measurement
    )


def require_runnable(onnx: Path, target: Target, request: Typing, reporter: Reporter) -> None:
    """Find out with the float32 graph, before the work, whether engines run here.

    Raises:
        MissingDependencyError: They do not.
    """
    with tempfile.TemporaryDirectory(prefix="fpet-export-") as folder:
        stem = Path(folder) / precisions.FP32
        problem = runnable(timed_choice.built(onnx, target, stem, request, reporter))
    if problem is not None:
        named = next(name for name in target.precisions if name != precisions.FP32)
        raise MissingDependencyError(
            f"engines for {target.name} do not run here, so nothing can be measured: "
            f"{built_engine.short_reason(problem)}",
            where="--precision best",
            fix=f"run it where they do, or name a precision: --precision {named}",
        )


def verdict(measurement: Measurement, chosen: str) -> str:
    """Return the choice as one line; `chosen` is a contender."""
    said = measuring.verdict(measurement).replace("\n", "; ")
    if chosen == measurement.baseline:
        return f"{chosen} remains the better choice: {said}"
    return f"{chosen} ({said})"
