"""The steps that `export` and `deploy` share: each prints one line with its number.

What a request says is refused before, by `fpet_export.steps.typing_request.refuse_export`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from calibration import graph_typing
from calibration.evaluator import evaluator_for
from calibration.requirements import require_opset
from engines import precisions
from engines.engine import load_target
from engines.errors import ParityError
from engines.imaging.source import ImageSource
from engines.manifest import read_manifest, write_manifest
from engines.parity.comparison import ReferenceOutputs
from engines.parity.rows import ParityTable, StageParity, failed_row
from engines.plurals import counted
from engines.targets import Target
from fpet_export.reporter import Reporter
from fpet_export.requests import AUTO, BEST, Exporting
from fpet_export.stages import Adapted, Folded
from fpet_export.steps import (
    best_precision,
    check_images,
    merge_choice,
    runs,
    skipped,
    typed_graph,
    typing_images,
    typing_request,
    verify,
)
from fpet_export.steps.best_precision import Candidates
from fpet_export.steps.parity_images import own_images, synthetic_images

E = TypeVar("E", bound=Exporting)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Started:
    """A run that was loaded, folded and compared so far.

    Attributes:
        adapted: The reference model.
        folded: The folded one.
        check: Images and what the reference said about them.
        rows: Parity of the stages up to the fold.
        calibration: Images to find ranges on; None where nothing is calibrated.
        labels: Class names in the order of the logits, where somebody states it; else empty.
    """

    adapted: Adapted
    folded: Folded
    check: ReferenceOutputs
    rows: tuple[StageParity, ...]
    calibration: ImageSource | None = None
    labels: tuple[str, ...] = ()

    def table(self, rows: Iterable[StageParity]) -> ParityTable:
        """Return the table of an artefact: the stages up to the fold, and its own."""
        return self.check.table([*self.rows, *rows])

    def record(self, path: Path, rows: Iterable[StageParity]) -> None:
        """Write into an artefact's manifest what its check came to, passed or failed."""
        document = self.table(rows).to_json()
        write_manifest(path, dataclasses.replace(read_manifest(path), parity=document))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Exported:
    """A graph on disk and its parity."""

    path: Path
    rows: tuple[StageParity, ...]


def start(request: E, reporter: Reporter, *, instead: str) -> tuple[Started, E]:
    """Load the run, settle its merge, fold it, and compare both with the float64 reference.

    `instead` says what to do with a folder of tasks; see `load_run`.

    Returns:
        What is known now, and what is left to do: where tokens merge is settled, and limits on the
        accuracy are what the merge leaves of them.
    """
    with reporter.working("reading the run and its backbone"):
        adapted = runs.load_run(request, instead=instead)
    reporter.step("inspect", runs.describe(adapted))
    if adapted.quality == "random":
        reporter.step("weights", "random: this export is good for speed only", passed=None)
    for warning in adapted.checkpoint.warnings:
        reporter.step("note", warning, passed=None)
    classes = adapted.known_classes
    known = check_images.known_classes(classes.count, request.labels, run=classes)
    limit = own_images(request.limit, judges_accuracy=typing_request.judges_accuracy(request))
    found = typing_images.sources(
        request,
        adapted.preprocessing,
        known,
        reporter,
        needs=typing_request.needs_ranges(request),
        limit=limit,
    )
    if request.merge == AUTO:
        adapted, request = merge_choice.choose(adapted, request, known, reporter)
    else:
        if request.merge is not None:
            adapted = adapted.merged(request.merge, "--merge")
            reporter.step("merge", runs.describe_merge(adapted))
        if adapted.merge_plan().merges and adapted.checkpoint.merges_untrained:
            reporter.step("merging", runs.UNTRAINED, passed=None)
    plan = adapted.merge_plan()
    least = synthetic_images(plan.before - plan.tokens[-1])
    images = found.images(adapted.preprocessing, default=min(least, limit))
    adapted = skipped.measured(adapted, images, reporter)
    with reporter.working("folding"):
        folded = adapted.fold()
    passes = verify.forward_passes(len(images))
    with reporter.progress("reference in float64 and float32", passes) as advance:
        check, first, second = verify.until_fold(adapted, folded, images, progress=advance)
    reporter.step("fold", _fold_text(adapted, folded, second), passed=second.passed)
    started = Started(
        adapted=adapted,
        folded=folded,
        check=check,
        rows=(first, second),
        calibration=found.calibration,
        labels=images.class_names or known.names,
    )
    return started, request


def type_graph(
    started: Started,
    request: Exporting,
    reporter: Reporter,
    exported: Exported,
    target: str,
) -> Exported:
    """Write what `--precision` asks for beside an exported graph; without it, return that graph."""
    resolved = load_target(target)
    is_best = request.precision == BEST
    if is_best:
        best_precision.require_runnable(exported.path, resolved, request, reporter)
    found = type_graphs(started, request, reporter, exported, resolved)
    rows = (*exported.rows, *(made.row for made in found.made.values()))
    if is_best:
        return Exported(
            path=best_precision.choose(found, resolved, request, reporter).graph, rows=rows
        )
    return Exported(path=found.graphs[found.baseline], rows=rows)


def type_graphs(
    started: Started,
    request: Exporting,
    reporter: Reporter,
    exported: Exported,
    target: Target,
) -> Candidates:
    """Write what `--precision` asks for beside an exported graph: one graph, or all of `best`."""
    wanted = typing_request.precisions_of(request, target)
    if not wanted:
        return best_precision.Candidates(graphs={precisions.FP32: exported.path}, made={})
    manifest = read_manifest(exported.path)
    for name in wanted:
        require_opset(exported.path, manifest, name, target)
    images, table = started.check.images, None
    if any(name in precisions.QUANTIZED for name in wanted):
        state = typing_request.state_path(exported.path)
        table = typed_graph.calibrated(
            exported.path, request, reporter, started.calibration, target=target, state=state
        )
    with reporter.progress("float32 graph", len(images)) as advance:
        evaluator = evaluator_for(
            exported.path, manifest, images, reference=started.check.outputs, progress=advance
        )
    if request.precision == BEST:
        return best_precision.candidates(
            exported.path,
            target,
            evaluator,
            request,
            reporter,
            table=table,
            parity_of=lambda row: started.table([*exported.rows, row]).to_json(),
        )
    recipe = typed_graph.recipe_of(request, target, request.precision)
    made = typed_graph.make(exported.path, recipe, evaluator, request, reporter, table=table)
    typed_graph.report(made, reporter)
    path = graph_typing.write(
        made,
        exported.path,
        typing_request.typed_path(exported.path, request.precision),
        table=table,
        parity=started.table([*exported.rows, made.row]).to_json(),
        force=request.force,
        command=request.command,
    )
    return best_precision.Candidates(
        graphs={request.precision: path}, made={request.precision: made}
    )


def export(
    started: Started,
    request: Exporting,
    reporter: Reporter,
    *,
    path: Path,
    target: str,
    batch: int | tuple[int, int] | None = None,
) -> Exported:
    """Freeze for `target`, write the graph, and compare both stages."""
    frozen = started.folded.freeze(
        batch=request.batch if batch is None else batch,
        target=target,
        input=request.input_kind,
        ties=request.ties,
        last_block=request.last_block,
        opset=request.opset,
    )
    count = len(started.check.images)
    with reporter.progress("frozen module", count) as advance:
        frozen_row = verify.frozen_row(started.check, frozen, advance)
    kept = ""
    if frozen_row.tokens_expected is not None:
        kept = f" · {frozen_row.tokens_kept}/{frozen_row.tokens_expected} tokens kept"
    reporter.step(
        "freeze",
        f"for {target}: match {request.ties} in float32{kept} · {frozen_row.difference}",
        passed=frozen_row.passed,
    )
    with reporter.working("writing the graph"):
        written = frozen.to_onnx(
            path,
            force=request.force,
            labels=started.labels,
            command=request.command,
        )
    with reporter.progress("ONNX graph", count) as advance:
        try:
            onnx_row = verify.onnx_row(started.check, written, advance)
        except ParityError as error:  # the graph lies there: its manifest must say so
            onnx_row = failed_row("onnx", count, error.what)
    manifest = read_manifest(written, verify=False)  # the check above has compared its bytes
    reporter.step(
        "onnx",
        f"{written.parent.name}/{written.name} {manifest.total_bytes / 1e6:.1f} MB · "
        f"opset {frozen.target.opset} · "
        f"{manifest.operators['LayerNormalization']} LayerNormalization · "
        f"{onnx_row.likeness}",
        passed=onnx_row.passed,
    )
    started.record(written, (frozen_row, onnx_row))
    return Exported(path=written, rows=(frozen_row, onnx_row))


def _fold_text(adapted: Adapted, folded: Folded, row: StageParity) -> str:
    run, depth = adapted.checkpoint, adapted.model.spec.depth
    method = run.method
    if not run.is_tuned:
        text = "nothing to fold"
    elif folded.stay:
        text = f"{counted(len(folded.stay), f'{method} part')} stay in the graph, scale folded"
    else:
        text = f"{method} of {depth} blocks into the backbone (float64)"
    return f"{text} · {row.difference}"
