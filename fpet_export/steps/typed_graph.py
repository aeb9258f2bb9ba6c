"""A typed graph, made as `quantize`, `export` and `deploy` do it: calibrated, within limits."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

from calibration import graph_typing
from calibration.accuracy import AccuracyConstraint, RevertedLayer
from calibration.collect import calibrate, pixel_hash, runs
from calibration.evaluator import GraphEvaluator
from calibration.graph_typing import Typed
from calibration.policy import choose
from calibration.recipe import Recipe
from calibration.table import CalibrationTable, merged_table, read_table, write_table
from engines import precisions
from engines.errors import UsageError
from engines.form import differences
from engines.imaging.source import ImageSource
from engines.manifest import read_manifest
from engines.onnx_graph.files import read_graph
from engines.plurals import counted
from engines.targets import Target
from fpet_export.reporter import Reporter
from fpet_export.requests import Typing

LONG_TAIL = 5.0
"""Largest value over the one that 99.9 % stay below: beyond it a rule that clips destroys what a
pretrained network relies on."""


def calibrated(
    onnx: Path,
    request: Typing,
    reporter: Reporter,
    source: ImageSource | None,
    *,
    target: Target,
    state: Path,
) -> CalibrationTable:
    """Return the calibration table for a target; what was interrupted goes on from `state`.

    Raises:
        InputError: See `calibration.collect.collect`.
        TrustError: A table is damaged.
        UsageError: A table was equalised, and that is not wanted.
    """
    start = None
    for path in request.table:
        table = read_table(path)
        start = table if start is None else merged_table(start, table)
    if start is not None and start.rewrites is not None and not request.equalise:
        raise UsageError(
            "the calibration table is of an equalised graph",
            where="--no-equalise",
            fix="leave --no-equalise out, or calibrate without the table",
        )
    if source is None:
        assert start is not None
        reporter.step("calibrate", f"{len(start.images)} images of {start.description}, as stored")
        return start
    if start is None and state.exists():
        left = read_table(state)
        same = left.graph == read_manifest(onnx).sha256 and left.description == source.description
        if same and (left.rewrites is not None) == request.equalise:  # else of another command
            start = left
            reporter.step(
                "calibrate", f"going on behind {len(start.images)} images of {state.name}"
            )
    before = 0 if start is None else len(start.images)
    reporter.keeps = state
    began = time.monotonic()
    total = runs(source, fits=request.equalise and start is None)
    with reporter.progress("calibrate", total) as advance:
        table = calibrate(
            onnx,
            source,
            equalising=request.equalise,
            precision=precisions.FP8 if request.precision == precisions.FP8 else precisions.INT8,
            start=start,
            moments=target.integers == "pairs",
            progress=advance,
            keep=lambda so_far: write_table(state, so_far, chosen={}),
        )
    state.unlink(missing_ok=True)
    new = len(table.images) - before
    rate = new / max(time.monotonic() - began, 1e-9)
    repeated = len(source) - new
    again = f" · {repeated} seen before" if repeated else ""
    reporter.step(
        "calibrate",
        f"{counted(len(table.images), 'image')}, {source.description} · {rate:.1f} images/s{again}",
    )
    return table


def warn_of_overlap(table: CalibrationTable, check: ImageSource | None, reporter: Reporter) -> None:
    """Say when images that are checked on were calibrated on."""
    if check is None:
        return

    both = sum(pixel_hash(pixels) in table.hashes for pixels in check.pixels())
    if both:
        reporter.step(
            "images",
            f"{both} of {len(check)} images to check on were calibrated on: the figures below "
            "look better than they are",
            passed=None,
        )


def warn_of_clipping(table: CalibrationTable, request: Typing, reporter: Reporter) -> None:
    """Say when a rule clips block inputs with a few very large values."""
    rule = request.observer.get("input", "absmax")
    if rule == "absmax":
        return
    tails = {
        name.removesuffix("/input"): record.histogram.tail
        for name, record in table.records.items()
        if name.endswith("/input")
    }
    longest = max(tails, key=lambda name: tails[name])
    if tails[longest] < LONG_TAIL:
        return
    count = sum(tail >= LONG_TAIL for tail in tails.values())
    reporter.step(
        "observer",
        f"input={rule} may clip: {counted(count, 'layer')} of {len(tails)} read values "
        f"{LONG_TAIL:g} times as large as 99.9 % of them ({longest}: {tails[longest]:.0f} times). "
        "On a pretrained DINOv2 ViT-S clipping them lost 8 to 11 dB; leave --observer input out",
        passed=None,
    )


def warn_of_nearest(table: CalibrationTable, recipe: Recipe, reporter: Reporter) -> None:
    """Say when the weights cannot be rounded by what the inputs of their layers do."""
    if recipe.form == "pairs" and not table.moments:
        reporter.step(
            "weights",
            "each rounded to the nearest number: how the inputs of a layer vary together is in no "
            "stored table. Add --calibration DIR, with the table's images or others (on a "
            "pretrained DINOv2 ViT-S that brought 2 dB in FP8)",
            passed=None,
        )


def recipe_of(request: Typing, target: Target, precision: str) -> Recipe:
    """Return how the graph is to be typed."""
    recipe = graph_typing.recipe_for(target, precision, io=request.io, half=request.half)
    return dataclasses.replace(recipe, observers={**recipe.observers, **request.observer})


def make(
    onnx: Path,
    recipe: Recipe,
    evaluator: GraphEvaluator,
    request: Typing,
    reporter: Reporter,
    *,
    table: CalibrationTable | None,
) -> Typed:
    """Make and evaluate a typed graph, with a line for every layer that is reverted.

    Raises:
        BudgetError: The accuracy constraint cannot be satisfied.
        ExportError: Something leaves the range of the type.
    """
    manifest = read_manifest(onnx)
    if not recipe.quantizes:
        with reporter.progress(f"{recipe.precision} graph", len(evaluator.images)) as advance:
            told = graph_typing.Callbacks(measured=advance)
            return graph_typing.half_precision(onnx, manifest, recipe, evaluator, callbacks=told)
    assert table is not None
    warn_of_clipping(table, request, reporter)
    warn_of_nearest(table, recipe, reporter)
    constraint = _constraint_of(request)
    limited = constraint != AccuracyConstraint()
    total = len(evaluator.images)
    if limited:
        total = len(choose(read_graph(onnx), request.preset, keep=request.keep).active)

    def returned(step: RevertedLayer) -> None:
        reporter.step(
            "reverted",
            f"{step.layer} · alone it gives {step.alone.sqnr_db:.1f} dB · now "
            f"{step.after.in_words()}",
        )

    name = "layers, each alone" if limited else f"{recipe.precision} graph"
    with reporter.progress(name, total) as advance:
        told = graph_typing.Callbacks(
            screened=advance if limited else None,
            measured=None if limited else advance,
            reverted=returned,
        )
        return graph_typing.integers(
            onnx,
            manifest,
            recipe,
            evaluator,
            table,
            preset=request.preset,
            keep=request.keep,
            constraint=constraint,
            callbacks=told,
        )


def target_of(made: Typed, target: Target) -> str:
    """Return the target that a typed graph is for; a form that is forced upon one makes it none."""
    return made.manifest.target if differences(made.manifest, target) else target.name


def report(made: Typed, reporter: Reporter) -> None:
    """Print the lines about a typed graph."""
    if made.warning is not None:
        reporter.step("range", f"close to float16's largest value: {made.warning}", passed=None)
    precision = made.recipe.precision
    if made.choice is None:
        noise = f"signal to noise (SQNR) {made.row.sqnr_db:.1f} dB"
        text = f"{noise} · {made.row.agreement_in_words}"
    else:
        policy = made.choice.policy
        text = f"{policy.preset}, {counted(len(policy.active), 'layer')}"
        if policy.kept:
            text += f", {len(policy.kept)} kept in high precision"
        text += f" · {made.choice.quality.in_words()}"
    reporter.step(precision, text, passed=made.row.passed)


def _constraint_of(request: Typing) -> AccuracyConstraint:
    """Return what the user asked to be kept."""
    return AccuracyConstraint(
        max_drop_pp=request.max_drop,
        min_sqnr_db=request.min_sqnr,
        min_agreement=request.min_agreement,
    )
