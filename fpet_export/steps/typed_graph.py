"""Quantizing as `quantize`, `export` and `deploy` do it: images, calibration, limits."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING

from calibration.table import merged_table, read_table, write_table
from engines import precisions, storage
from engines.errors import InputError, UsageError
from engines.form import differences
from engines.imaging.source import collect, open_source
from engines.imaging.synthetic import synthetic_set
from engines.manifest import Preprocessing, read_manifest, refuse_shared_side_car
from engines.plurals import counted
from fpet_export.reporter import Reporter
from fpet_export.requests import BEST, Quantization, Typing
from fpet_export.steps import check_images

if TYPE_CHECKING:
    from calibration.accuracy import AccuracyConstraint, RevertedLayer
    from calibration.evaluator import GraphEvaluator
    from calibration.graph_typing import Typed
    from calibration.recipe import Recipe
    from calibration.table import CalibrationTable
    from engines.imaging.class_names import KnownClasses
    from engines.imaging.images import ImageSet
    from engines.imaging.source import ImageSource
    from engines.targets import Target

DEFAULT_CALIBRATION = 128
LONG_TAIL = 5.0
"""Largest value over the one that 99.9 % stay below: beyond it a rule that clips destroys what a
pretrained network relies on."""
OBSERVERS = ("absmax", "percentile", "entropy", "mse")
SITES = ("input", "q", "k", "v", "probabilities")


def constraint_of(request: Typing) -> AccuracyConstraint:
    """Return what the user asked to be kept."""
    from calibration.accuracy import AccuracyConstraint

    return AccuracyConstraint(
        max_drop_pp=request.max_drop,
        min_sqnr_db=request.min_sqnr,
        min_agreement=request.min_agreement,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sources:
    """Images of a quantization.

    Attributes:
        calibration: To find ranges on; None for half precision, or where tables say it all.
        check: To compare on; None for synthetic images.
    """

    calibration: ImageSource | None
    check: ImageSource | None

    def images(self, preprocessing: Preprocessing, *, default: int) -> ImageSet:
        """Read the images to compare on, or make `default` synthetic ones."""
        if self.check is not None:
            return collect(self.check)
        return synthetic_set(preprocessing.size, default)


def judges_accuracy(request: Typing) -> bool:
    """Say whether graphs are limited in, or chosen by, what they answer on the user's images."""
    return request.precision in (*precisions.QUANTIZED, BEST)


def sources(
    request: Typing,
    preprocessing: Preprocessing,
    known: KnownClasses,
    reporter: Reporter,
    *,
    needs: bool,
    limit: int,
) -> Sources:
    """List the images, and see to it that they can be read and what their labels mean.

    Args:
        request: Which images, and which tables.
        preprocessing: Preprocessing of the graph.
        known: What is known about the classes of the model.
        reporter: Hears what the images are.
        needs: Whether there is something to calibrate.
        limit: Images to check, at most.

    Raises:
        InputError: There are fewer than asked for, some cannot be read, or labels are no classes
            of the model.
        UsageError: INT8 or FP8 without images.
    """
    found = _listed(request, preprocessing, needs=needs)
    check = found.check
    if check is not None:
        check = check_images.checked(check.spread(limit), known, request, reporter)
    calibration = found.calibration
    if calibration is not None:
        calibration = check_images.without_bad(calibration, request, reporter)
        left_out = calibration.left_out()
        if left_out and request.calibration is not None:
            text = f"{calibration.description} · left out: {', '.join(left_out)}"
            reporter.step("calibrate", text, passed=None)
        check_images.say_remarks(calibration.remarks(), reporter, name="calibrate")
    return Sources(calibration=calibration, check=check)


def _listed(request: Typing, preprocessing: Preprocessing, *, needs: bool) -> Sources:
    """List the images, without reading them."""
    data = None if request.data is None else open_source(request.data, preprocessing)
    if not needs:
        return Sources(calibration=None, check=data)
    if request.calibration is not None:
        found = open_source(request.calibration, preprocessing)
        wanted = _count(request, len(found), str(request.calibration))
        return Sources(calibration=found.spread(wanted), check=data)
    if data is not None and not request.table:
        half, rest = data.halves()
        wanted = _count(request, len(half), f"half of {request.data}")
        return Sources(calibration=half.spread(wanted), check=rest)
    if not request.table:
        raise UsageError(
            f"{request.precision} needs images to find its ranges on",
            where=f"--precision {request.precision}",
            fix="add --calibration DIR with real images, or --data DIR with twice as many",
        )
    return Sources(calibration=None, check=data)


def calibrated(
    onnx: Path,
    request: Typing,
    reporter: Reporter,
    source: ImageSource | None,
    *,
    state: Path,
) -> CalibrationTable:
    """Return the calibration table; a run that was interrupted goes on from `state`.

    Raises:
        InputError: See `calibration.collect.collect`.
        TrustError: A table is damaged.
        UsageError: A table was equalised, and that is not wanted.
    """
    from calibration.collect import calibrate

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
    with reporter.progress("calibrate", len(source)) as advance:
        table = calibrate(
            onnx,
            source,
            equalising=request.equalise,
            start=start,
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
    from calibration.collect import pixel_hash

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


def precisions_of(request: Typing, target: Target) -> tuple[str, ...]:
    """Return what is to be made for a target: one precision, or all that may be the best.

    Raises:
        UsageError: The target does not run it, or something was asked for that only INT8 and FP8
            have.
    """
    if request.precision not in (*precisions.QUANTIZED, BEST):
        _refuse_what_integers_have(request)
    if request.precision == precisions.FP32:
        if request.io == "uint8":
            raise UsageError(
                "--io belongs to a typed graph",
                where="--io uint8",
                fix="use --input uint8: the float32 graph then takes raw pixels",
            )
        return ()
    if request.precision != BEST:
        recipe_of(request, target, request.precision)
        return (request.precision,)
    return tuple(name for name in precisions.TYPED if name in target.precisions)


def _refuse_what_integers_have(request: Typing) -> None:
    """Refuse to ignore, for example, a limit on accuracy."""
    usual = Quantization(io=request.io)
    given = [
        "--no-equalise" if field.name == "equalise" else f"--{field.name.replace('_', '-')}"
        for field in dataclasses.fields(Quantization)
        if field.name != "command" and getattr(request, field.name) != getattr(usual, field.name)
    ]
    if given:
        raise UsageError(
            f"{request.precision} has no layer to calibrate, to keep or to revert",
            where=", ".join(given),
            fix="leave this out, or ask for --precision int8",
        )


def recipe_of(request: Typing, target: Target, precision: str) -> Recipe:
    """Return how the graph is to be typed."""
    from calibration.graph_typing import recipe_for

    recipe = recipe_for(target, precision, io=request.io, half=request.half)
    return dataclasses.replace(recipe, observers={**recipe.observers, **request.observer})


def typed_path(onnx: Path, precision: str) -> Path:
    """Return where a typed graph lies by default: `model.int8.onnx` beside `model.onnx`."""
    return onnx.with_name(f"{onnx.stem}.{precision}.onnx")


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
    from calibration import graph_typing
    from calibration.policy import choose
    from engines.onnx_graph.files import read_graph

    manifest = read_manifest(onnx)
    if not recipe.quantizes:
        with reporter.progress(f"{recipe.precision} graph", len(evaluator.images)) as advance:
            told = graph_typing.Callbacks(measured=advance)
            return graph_typing.half_precision(onnx, manifest, recipe, evaluator, callbacks=told)
    assert table is not None
    warn_of_clipping(table, request, reporter)
    layers = len(choose(read_graph(onnx), request.preset, keep=request.keep).active)

    def returned(step: RevertedLayer) -> None:
        reporter.step(
            "reverted",
            f"{step.layer} · alone it gives {step.alone.sqnr_db:.1f} dB · now "
            f"{step.after.in_words()}",
        )

    with reporter.progress("layers, each alone", layers) as advance:
        told = graph_typing.Callbacks(screened=advance, reverted=returned)
        return graph_typing.integers(
            onnx,
            manifest,
            recipe,
            evaluator,
            table,
            preset=request.preset,
            keep=request.keep,
            constraint=constraint_of(request),
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
        text = (
            f"signal to noise (SQNR) {made.row.sqnr_db:.1f} dB · agreement {made.row.agreement:.1%}"
        )
    else:
        policy = made.choice.policy
        text = f"{policy.preset}, {counted(len(policy.active), 'layer')}"
        if policy.kept:
            text += f", {len(policy.kept)} kept in high precision"
        text += f" · {made.choice.quality.in_words()}"
    reporter.step(precision, text, passed=made.row.passed)


def state_path(out: Path) -> Path:
    """Return where an interrupted calibration leaves what it has: `model.int8.partial.json`."""
    return out.with_name(f"{out.stem}.partial.json")


def refuse_overwrite(out: Path, precision: str, *, force: bool) -> None:
    """Refuse to replace any file of a typed graph without force, and the manifest of another.

    Raises:
        UsageError: A file exists, or the name is not that of a graph of its own.
    """
    from calibration.graph_typing import files_of

    for file in files_of(out, quantizes=precision in precisions.QUANTIZED):
        storage.refuse_overwrite(file, force=force)
    if out.suffix != ".onnx":
        raise UsageError(
            f"the name of a typed graph ends in .onnx, {out.name} does not",
            where=str(out),
            fix=f"call it {out.with_suffix('.onnx')}",
        )
    refuse_shared_side_car(out)


def graphs_of(onnx: Path, request: Typing) -> tuple[Path, ...]:
    """Return the graphs beside `onnx`, and itself, of which `--precision` builds one."""
    if request.precision == precisions.FP32:
        return (onnx,)
    if request.precision == BEST:
        return (onnx, *(typed_path(onnx, precision) for precision in precisions.TYPED))
    return (typed_path(onnx, request.precision),)


def refuse_all(onnx: Path, request: Typing) -> None:
    """Refuse to replace the typed graphs that `--precision` would write beside `onnx`."""
    named = precisions.TYPED if request.precision == BEST else (request.precision,)
    for precision in named:
        if precision != precisions.FP32:
            refuse_overwrite(typed_path(onnx, precision), precision, force=request.force)


def _count(request: Typing, available: int, where: str) -> int:
    if request.images is None:
        return min(DEFAULT_CALIBRATION, available)
    if request.images > available:
        raise InputError(
            f"{request.images} calibration images were asked for, there are {available}",
            where=where,
            fix=f"give more images, or ask for --images {available}",
        )
    return request.images
