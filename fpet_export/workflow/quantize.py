"""`quantize`: a typed graph of an exported one, within limits on accuracy."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from calibration.requirements import require_opset
from engines import precisions
from engines.errors import InputError, UsageError
from engines.manifest import Manifest, is_task_folder, read_manifest
from engines.parity.outputs import preprocessing_of
from engines.parity.rows import ParityTable
from engines.targets._lookup import load_target
from fpet_export.reporter import SILENT, Reporter
from fpet_export.requests import BEST, AllowFailed, AllowForm, Typing
from fpet_export.steps import next_commands, typing_request, usable

if TYPE_CHECKING:
    from calibration.accuracy import LayerChoice
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
            return {"onnx": str(self.graph), **self.best.to_json()}
        return {
            "onnx": str(self.graph),
            "parity": None if self.parity is None else self.parity.to_json(),
            "manifest": dataclasses.asdict(self.manifest),
            "choice": None if self.choice is None else self.choice.to_json(),
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
    manifest = _float32_manifest(request.onnx)
    target = load_target(request.target or manifest.target)
    typing_request.refuse_class_limits(request, manifest.head)
    usable.require(request.onnx, manifest, request, reporter)
    usable.require_form(request.onnx, manifest, target, request, reporter)
    wanted = typing_request.precisions_of(request, target)
    best = request.precision == BEST
    if best and request.out is not None:
        raise UsageError(
            "`best` writes a graph for each precision, beside the float32 one",
            where="--out",
            fix="leave --out out",
        )
    outs = [request.out or typing_request.typed_path(request.onnx, name) for name in wanted]
    for out, name in zip(outs, wanted, strict=True):
        require_opset(request.onnx, manifest, name, target)
        typing_request.refuse_overwrite(out, name, force=request.force)
    from fpet_export.workflow import quantizing

    if best:
        chosen = quantizing.fastest(request.onnx, request, reporter, target, outs[-1])
        return Quantized(
            graph=chosen.graph,
            manifest=read_manifest(chosen.graph),
            best=chosen,
            next=(next_commands.build_or_bundle(chosen.graph, target),),
        )
    parity, choice = quantizing.one(request.onnx, request, reporter, target, outs[0])
    final = read_manifest(outs[0])
    return Quantized(
        graph=outs[0],
        manifest=final,
        parity=parity,
        choice=choice,
        next=(usable.go_on(next_commands.build_or_bundle(outs[0], target), final),),
    )


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
