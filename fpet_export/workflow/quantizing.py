"""Quantizing a graph that was exported: its images, its calibration, one precision or the best."""

from __future__ import annotations

from pathlib import Path

from calibration import graph_typing
from calibration.accuracy import LayerChoice
from calibration.evaluator import GraphEvaluator, evaluator_for
from calibration.table import CalibrationTable
from engines.manifest import read_manifest
from engines.parity.rows import ParityTable, StageParity
from engines.precisions import QUANTIZED
from engines.targets import Target
from fpet_export.reporter import Reporter
from fpet_export.requests import Typing
from fpet_export.steps import (
    best_precision,
    check_images,
    parity_report,
    typed_graph,
    typing_images,
    typing_request,
)
from fpet_export.steps.best_precision import Best
from fpet_export.steps.parity_images import DEFAULT_IMAGES, own_images


def one(
    onnx: Path, request: Typing, reporter: Reporter, target: Target, out: Path
) -> tuple[ParityTable, LayerChoice | None]:
    """Write `out` in the precision that is asked for, and judge it.

    Returns:
        Its parity with the float32 graph, and how limits on accuracy were met; None without layers
        that could be reverted.

    Raises:
        FpetError: What is wrong with the images; a BudgetError where limits cannot be met, a
            ParityError where it drifts, and nothing is written.
    """
    evaluator, table = _prepared(onnx, request, reporter, target, out)
    recipe = typed_graph.recipe_of(request, target, request.precision)
    made = typed_graph.make(onnx, recipe, evaluator, request, reporter, table=table)
    typed_graph.report(made, reporter)
    parity = _table(onnx, evaluator, made.row)
    parity_report.show_table(parity, reporter)
    parity_report.require(parity)
    graph_typing.write(
        made,
        onnx,
        out,
        table=table,
        parity=parity.to_json(),
        target=typed_graph.target_of(made, target),
        force=request.force,
        command=request.command,
    )
    return parity, made.choice


def fastest(onnx: Path, request: Typing, reporter: Reporter, target: Target, last: Path) -> Best:
    """Write every precision of a target, and measure which is the fastest.

    Args:
        onnx: The float32 graph.
        request: What is asked of them.
        reporter: Hears of each.
        target: Where they run.
        last: The last graph to be written, beside which an interrupted calibration is kept.

    Raises:
        FpetError: What is wrong with the images; a MissingDependencyError where engines do not run
            here, a MeasurementError where the measurement was not valid.
    """
    best_precision.require_runnable(onnx, target, request, reporter)
    evaluator, table = _prepared(onnx, request, reporter, target, last)
    found = best_precision.candidates(
        onnx,
        target,
        evaluator,
        request,
        reporter,
        table=table,
        parity_of=lambda row: _table(onnx, evaluator, row).to_json(),
    )
    return best_precision.choose(found, target, request, reporter)


def _prepared(
    onnx: Path, request: Typing, reporter: Reporter, target: Target, out: Path
) -> tuple[GraphEvaluator, CalibrationTable | None]:
    """Calibrate where a precision needs it, and run the float32 graph over the check's images."""
    manifest = read_manifest(onnx)
    assert manifest.preprocessing is not None
    wanted = typing_request.precisions_of(request, target)
    needs = any(name in QUANTIZED for name in wanted)
    count = None if manifest.model is None else manifest.model.classes
    known = check_images.known_classes(count, request.labels, [manifest])
    limit = own_images(request.limit, judges_accuracy=True)
    found = typing_images.sources(
        request, manifest.preprocessing, known, reporter, needs=needs, limit=limit
    )
    table = None
    if needs:
        state = typing_request.state_path(out)
        table = typed_graph.calibrated(
            onnx, request, reporter, found.calibration, target=target, state=state
        )
        typed_graph.warn_of_overlap(table, found.check, reporter)
    images = found.images(manifest.preprocessing, default=min(DEFAULT_IMAGES, limit))
    with reporter.progress("float32 graph", len(images)) as advance:
        evaluator = evaluator_for(onnx, manifest, images, progress=advance)
    return evaluator, table


def _table(onnx: Path, evaluator: GraphEvaluator, row: StageParity) -> ParityTable:
    """Return what is kept in the manifest of a typed graph."""
    return evaluator.reference.table([row], reference=f"float32 graph {onnx.name}")
