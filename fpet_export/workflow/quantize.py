"""`quantize`: a typed graph of an exported one, within limits on accuracy."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from engines import precisions
from engines.errors import InputError, UsageError
from engines.manifest import Manifest, is_task_folder, read_manifest
from engines.parity.outputs import preprocessing_of
from engines.parity.rows import ParityTable
from engines.precisions import QUANTIZED
from engines.targets._lookup import load_target
from fpet_export.reporter import SILENT, Reporter
from fpet_export.requests import BEST, AllowFailed, AllowForm, Typing
from fpet_export.steps import (
    best_precision,
    check_images,
    next_commands,
    parity_report,
    typed_graph,
    usable,
)
from fpet_export.steps.best_precision import remembered
from fpet_export.steps.verify import DEFAULT_IMAGES

if TYPE_CHECKING:
    from calibration.accuracy import LayerChoice
    from calibration.evaluator import GraphEvaluator
    from calibration.table import CalibrationTable
    from engines.parity.rows import StageParity
    from engines.targets import Target
    from fpet_export.steps.best_precision import Best


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantizeRequest(Typing, AllowFailed, AllowForm):
    """A float32 graph to type.

    Attributes:
        onnx: The graph.
        precision: What to write; "best" writes all and measures them.
        target: Where it will run; None is what it was exported for.
        out: File to write; None is `model.PRECISION.onnx` beside the graph.
        limit: Images to check, at most.
    """

    onnx: Path
    precision: precisions.TypedName | Literal["best"] = dataclasses.field(
        metadata={"choices": (*precisions.TYPED, BEST)}
    )
    target: str | None = None
    out: Path | None = None
    limit: int = dataclasses.field(default=128, metadata={"least": 1})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quantized:
    """What quantizing left.

    Attributes:
        graph: The typed graph; of "best" the fastest.
        manifest: Its manifest.
        parity: It against the float32 graph; None of "best", where `best` says it.
        choice: How limits on accuracy were met; None without layers that could be reverted.
        best: What was chosen, and from what; None where one precision was asked for.
        next: Commands to type next.
    """

    graph: Path
    manifest: Manifest
    parity: ParityTable | None = None
    choice: LayerChoice | None = None
    best: Best | None = None
    next: Sequence[str] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the same as plain values."""
        if self.best is not None:
            return {"onnx": str(self.graph), **remembered(self.best)}
        return {
            "onnx": str(self.graph),
            "parity": None if self.parity is None else self.parity.to_json(),
            "manifest": dataclasses.asdict(self.manifest),
            "promise": None if self.choice is None else self.choice.to_json(),
        }


def quantize(request: QuantizeRequest, reporter: Reporter = SILENT) -> Quantized:
    """Calibrate where needed, type the graph, meet the limits on accuracy, judge.

    Raises:
        FpetError: What is wrong with the graph, the target or the images; a BudgetError where the
            limits on accuracy cannot be met.
    """
    if is_task_folder(request.onnx) or is_task_folder(request.onnx.parent):
        raise UsageError(
            "the graphs of a folder of tasks are not quantized",
            where=str(request.onnx),
            fix="write them in half precision, from their runs: `tasks` with --precision fp16",
        )
    from calibration.graph_typing import require_opset

    manifest = _float32_manifest(request.onnx)
    target = load_target(request.target or manifest.target)
    usable.require(request.onnx, manifest, request, reporter)
    usable.require_form(request.onnx, manifest, target, request, reporter)
    wanted = typed_graph.precisions_of(request, target)
    best = request.precision == BEST
    if best and request.out is not None:
        raise UsageError(
            "`best` writes a graph for each precision, beside the float32 one",
            where="--out",
            fix="leave --out out",
        )
    if best:
        best_precision.require_runnable(request.onnx, target, request, reporter)
    outs = [request.out or typed_graph.typed_path(request.onnx, name) for name in wanted]
    for out, name in zip(outs, wanted, strict=True):
        require_opset(request.onnx, manifest, name, target)
        typed_graph.refuse_overwrite(out, name, force=request.force)
    evaluator, table = _prepared(request, reporter, manifest, wanted, outs[-1])
    if best:
        return _fastest(request, reporter, target, evaluator, table)
    return _one(request, reporter, target, evaluator, table, outs[0])


def _float32_manifest(onnx: Path) -> Manifest:
    """Return the manifest of a graph that can be typed, and refuse others."""
    preprocessing_of(onnx)
    manifest = read_manifest(onnx)
    if manifest.kind != "graph" or not manifest.is_float32:
        raise InputError(
            f"this {manifest.kind} is already {manifest.precision}: a typed graph is made from a "
            "float32 one",
            where=str(onnx),
            fix=f"quantize {manifest.parents[0].file if manifest.parents else 'the export'}",
        )
    return manifest


def _prepared(
    request: QuantizeRequest,
    reporter: Reporter,
    manifest: Manifest,
    wanted: tuple[str, ...],
    out: Path,
) -> tuple[GraphEvaluator, CalibrationTable | None]:
    """Calibrate where a precision needs it, and run the float32 graph over the check's images."""
    from calibration.evaluator import evaluator_for

    assert manifest.preprocessing is not None
    needs = any(name in QUANTIZED for name in wanted)
    count = None if manifest.model is None else manifest.model.classes
    known = check_images.known_classes(count, request.labels, [manifest])
    found = typed_graph.sources(
        request, manifest.preprocessing, known, reporter, needs=needs, limit=request.limit
    )
    table = None
    if needs:
        state = typed_graph.state_path(out)
        table = typed_graph.calibrated(
            request.onnx, request, reporter, found.calibration, state=state
        )
        typed_graph.warn_of_overlap(table, found.check, reporter)
    images = found.images(manifest.preprocessing, default=min(DEFAULT_IMAGES, request.limit))
    with reporter.progress("float32 graph", len(images)) as advance:
        evaluator = evaluator_for(request.onnx, manifest, images, progress=advance)
    return evaluator, table


def _one(
    request: QuantizeRequest,
    reporter: Reporter,
    target: Target,
    evaluator: GraphEvaluator,
    table: CalibrationTable | None,
    out: Path,
) -> Quantized:
    from calibration import graph_typing as writing

    recipe = typed_graph.recipe_of(request, target, request.precision)
    made = typed_graph.make(request.onnx, recipe, evaluator, request, reporter, table=table)
    typed_graph.report(made, reporter)
    parity = _table(request.onnx, evaluator, made.row)
    parity_report.show_table(parity, reporter)
    parity_report.require(parity)
    writing.write(
        made,
        request.onnx,
        out,
        table=table,
        parity=parity.to_json(),
        target=typed_graph.target_of(made, target),
        force=request.force,
        command=request.command,
    )
    final = read_manifest(out)
    return Quantized(
        graph=out,
        manifest=final,
        parity=parity,
        choice=made.choice,
        next=(usable.go_on(next_commands.build_or_bundle(out, target), final),),
    )


def _table(onnx: Path, evaluator: GraphEvaluator, row: StageParity) -> ParityTable:
    """Return what is kept in the manifest of a typed graph."""
    return evaluator.reference.table([row], reference=f"float32 graph {onnx.name}")


def _fastest(
    request: QuantizeRequest,
    reporter: Reporter,
    target: Target,
    evaluator: GraphEvaluator,
    table: CalibrationTable | None,
) -> Quantized:

    found = best_precision.candidates(
        request.onnx,
        target,
        evaluator,
        request,
        reporter,
        table=table,
        parity_of=lambda row: _table(request.onnx, evaluator, row).to_json(),
    )
    chosen = best_precision.choose(found, target, request, reporter)
    return Quantized(
        graph=chosen.graph,
        manifest=read_manifest(chosen.graph),
        best=chosen,
        next=(next_commands.build_or_bundle(chosen.graph, target),),
    )
