"""Quantizing as `quantize`, `export` and `deploy` do it: arguments, images, calibration, lines."""

from __future__ import annotations

import argparse
import dataclasses
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING

from engines import storage
from engines.errors import InputError, UsageError
from engines.manifest import Preprocessing, read_manifest
from engines.near_names import did_you_mean
from engines.plurals import counted
from fpet_export.cli import arguments
from fpet_export.reporter import Reporter
from fpet_export.workflow import images as _images

if TYPE_CHECKING:
    from calibration.accuracy import Promise, Step
    from calibration.examine import Examiner
    from calibration.quantize import Typed
    from calibration.recipe import Recipe
    from calibration.table import CalibrationTable
    from engines.imaging.class_names import KnownClasses
    from engines.imaging.images import ImageSet
    from engines.imaging.source import ImageSource
    from engines.targets import Target

PRECISIONS = ("fp16", "bf16", "int8", "fp8")
INTEGERS = ("int8", "fp8")
BEST = "best"
DEFAULT_CALIBRATION = 128
LONG_TAIL = 5.0
"""Largest value over the one that 99.9 % stay below: beyond it a rule that clips destroys what a
pretrained network relies on."""
PRESETS = ("vit-linear", "vit-attention")
OBSERVERS = ("absmax", "percentile", "entropy", "mse")
SITES = ("input", "q", "k", "v", "probabilities")

FOR_INTEGERS: dict[str, object] = {
    "preset": "vit-linear",
    "keep": (),
    "half": "fp16",
    "calibration": None,
    "images": None,
    "table": [],
    "observer": {},
    "equalise": True,
    "max_drop": None,
    "min_sqnr": None,
    "min_agreement": None,
}
"""What only INT8 and FP8 read, and its defaults."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what decides a typed graph, besides `--precision`."""
    group = parser.add_argument_group("the typed graph")
    group.add_argument(
        "--io",
        choices=("fp32", "typed", "uint8"),
        default="fp32",
        help="pixels and logits: float32, the graph's own type, or raw pixels (default: fp32)",
    )
    group.add_argument(
        "--preset",
        choices=PRESETS,
        help="what INT8 and FP8 quantize: the linears of the blocks, or their attention too",
    )
    group.add_argument(
        "--keep",
        type=arguments.names,
        metavar="LAYER,LAYER",
        help="layers or blocks that stay in half precision, as blocks/0 or blocks/11/fc2",
    )
    group.add_argument(
        "--half",
        choices=("fp16", "bf16"),
        help="the type of what INT8 and FP8 leave alone (default: fp16)",
    )
    group = parser.add_argument_group("the calibration (INT8, FP8)")
    group.add_argument(
        "--calibration",
        type=Path,
        metavar="DIR|NPZ",
        help="images to find the ranges on (default: half of --data, the rest is checked on)",
    )
    group.add_argument(
        "--images",
        type=arguments.positive,
        metavar="N",
        help=f"calibration images (default: up to {DEFAULT_CALIBRATION})",
    )
    group.add_argument(
        "--table",
        type=Path,
        action="append",
        metavar="JSON",
        help="calibration table to start from; several are merged",
    )
    group.add_argument(
        "--observer",
        type=_observers,
        metavar="KIND=RULE,…",
        help=f"rule of a kind of tensor ({', '.join(SITES)}): {', '.join(OBSERVERS)}",
    )
    group.add_argument(
        "--equalise",
        action=argparse.BooleanOptionalAction,
        help="move outlier channels and means between layers first, which is exact",
    )
    group = parser.add_argument_group(
        "limits on accuracy (INT8, FP8; exit 8 where they cannot be met)"
    )
    group.add_argument(
        "--max-drop",
        type=_number,
        metavar="PP",
        help="percentage points of accuracy to lose at most",
    )
    group.add_argument(
        "--min-sqnr",
        type=_number,
        metavar="DB",
        help="smallest signal to noise (SQNR) of the logits, in decibels",
    )
    group.add_argument(
        "--min-agreement",
        type=_share,
        metavar="%",
        help="smallest share of images with the same class, in percent",
    )
    parser.set_defaults(**FOR_INTEGERS)


def add_precision(parser: argparse.ArgumentParser) -> None:
    """Add `--precision` to a verb that exports first, and all that it takes."""
    parser.add_argument(
        "--precision",
        choices=("fp32", *PRECISIONS, BEST),
        default="fp32",
        help="type the graph (default: fp32); `best` measures what meets the limits",
    )
    add_arguments(parser)


def add_rounds(parser: argparse.ArgumentParser) -> None:
    """Add how long `best` measures."""
    parser.add_argument(
        "--rounds",
        type=arguments.positive,
        default=40,
        help="rounds that `best` measures at least (default: 40)",
    )


def promise_of(options: argparse.Namespace) -> Promise:
    """Return what the user asked to be kept."""
    from calibration.accuracy import Promise

    return Promise(
        max_drop_pp=options.max_drop,
        min_sqnr_db=options.min_sqnr,
        min_agreement=options.min_agreement,
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
        from engines.imaging.source import collect
        from engines.imaging.synthetic import synthetic_set

        if self.check is not None:
            return collect(self.check)
        return synthetic_set(preprocessing.size, default)


def judges_accuracy(options: argparse.Namespace) -> bool:
    """Say whether graphs are limited in, or chosen by, what they answer on the user's images."""
    return options.precision in (*INTEGERS, BEST)


def sources(
    options: argparse.Namespace,
    preprocessing: Preprocessing,
    known: KnownClasses,
    reporter: Reporter,
    *,
    needs: bool,
    limit: int,
) -> Sources:
    """List the images, and see to it that they can be read and what their labels mean.

    Args:
        options: `--data`, `--calibration`, `--images`, `--table`, `--skip-bad`.
        preprocessing: Of the graph.
        known: What is known about the classes of the model.
        reporter: Hears what the images are.
        needs: Whether there is something to calibrate.
        limit: Images to check, at most.

    Raises:
        InputError: There are fewer than asked for, some cannot be read, or labels are no classes
            of the model.
        UsageError: INT8 or FP8 without images.
    """
    found = _listed(options, preprocessing, needs=needs)
    check = found.check
    if check is not None:
        check = _images.checked(check.spread(limit), known, options, reporter)
    calibration = found.calibration
    if calibration is not None:
        calibration = _images.without_bad(calibration, options, reporter)
        left_out = calibration.left_out()
        if left_out and options.calibration is not None:
            text = f"{calibration.description} · left out: {', '.join(left_out)}"
            reporter.step("calibrate", text, passed=None)
        _images.say_remarks(calibration.remarks(), reporter, name="calibrate")
    return Sources(calibration=calibration, check=check)


def _listed(options: argparse.Namespace, preprocessing: Preprocessing, *, needs: bool) -> Sources:
    """List the images, without reading them."""
    from engines.imaging.source import open_source

    data = None if options.data is None else open_source(options.data, preprocessing)
    if not needs:
        return Sources(calibration=None, check=data)
    if options.calibration is not None:
        found = open_source(options.calibration, preprocessing)
        wanted = _count(options, len(found), str(options.calibration))
        return Sources(calibration=found.spread(wanted), check=data)
    if data is not None and not options.table:
        half, rest = data.halves()
        wanted = _count(options, len(half), f"half of {options.data}")
        return Sources(calibration=half.spread(wanted), check=rest)
    if not options.table:
        raise UsageError(
            f"{options.precision} needs images to find its ranges on",
            where=f"--precision {options.precision}",
            fix="add --calibration DIR with real images, or --data DIR with twice as many",
        )
    return Sources(calibration=None, check=data)


def calibrated(
    onnx: Path,
    options: argparse.Namespace,
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
    from calibration.table import merged_table, read_table, write_table

    start = None
    for path in options.table:
        table = read_table(path)
        start = table if start is None else merged_table(start, table)
    if start is not None and start.rewrites is not None and not options.equalise:
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
        if same and (left.rewrites is not None) == options.equalise:  # else of another command
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
            equalising=options.equalise,
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
            f"{both} of {len(check)} images to check on were calibrated on: the quality below is "
            "flattered",
            passed=None,
        )


def warn_of_clipping(
    table: CalibrationTable, options: argparse.Namespace, reporter: Reporter
) -> None:
    """Say when a rule clips block inputs with a few very large values."""
    rule = options.observer.get("input", "absmax")
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


def precisions_of(options: argparse.Namespace, target: Target) -> tuple[str, ...]:
    """Return what is to be made for a target: one precision, or all that may be the best.

    Raises:
        UsageError: The target does not run it, or something was asked for that only INT8 and FP8
            have.
    """
    if options.precision not in (*INTEGERS, BEST):
        _refuse_what_integers_have(options)
    if options.precision == "fp32":
        if options.io == "uint8":
            raise UsageError(
                "--io belongs to a typed graph",
                where="--io uint8",
                fix="use --input uint8: the float32 graph then takes raw pixels",
            )
        return ()
    if options.precision != BEST:
        recipe_of(options, target, options.precision)
        return (options.precision,)
    return tuple(name for name in PRECISIONS if name in target.precisions)


def _refuse_what_integers_have(options: argparse.Namespace) -> None:
    """Refuse to ignore, for example, a promise."""
    given = [
        "--no-equalise" if name == "equalise" else f"--{name.replace('_', '-')}"
        for name, usual in FOR_INTEGERS.items()
        if getattr(options, name) != usual
    ]
    if given:
        raise UsageError(
            f"{options.precision} has no layer to calibrate, to keep or to revert",
            where=", ".join(given),
            fix="leave this out, or ask for --precision int8",
        )


def recipe_of(options: argparse.Namespace, target: Target, precision: str) -> Recipe:
    """Return how the graph is to be typed."""
    from calibration.quantize import recipe_for

    recipe = recipe_for(target, precision, io=options.io, half=options.half)
    return dataclasses.replace(recipe, observers={**recipe.observers, **options.observer})


def typed_path(onnx: Path, precision: str) -> Path:
    """Return where a typed graph lies by default: `model.int8.onnx` beside `model.onnx`."""
    return onnx.with_name(f"{onnx.stem}.{precision}.onnx")


def make(
    onnx: Path,
    recipe: Recipe,
    examiner: Examiner,
    options: argparse.Namespace,
    reporter: Reporter,
    *,
    table: CalibrationTable | None,
) -> Typed:
    """Make and examine a typed graph, with a line for every layer that is put back.

    Raises:
        BudgetError: The promise cannot be kept.
        ExportError: Something leaves the range of the type.
    """
    from calibration import quantize
    from calibration.graph_files import read_graph
    from calibration.policy import choose

    manifest = read_manifest(onnx)
    if not recipe.quantizes:
        with reporter.progress(f"{recipe.precision} graph", len(examiner.images)) as advance:
            told = quantize.Listeners(measured=advance)
            return quantize.half_precision(onnx, manifest, recipe, examiner, listeners=told)
    assert table is not None
    warn_of_clipping(table, options, reporter)
    layers = len(choose(read_graph(onnx), options.preset, keep=options.keep).active)

    def returned(step: Step) -> None:
        reporter.step(
            "reverted",
            f"{step.layer} · alone it gives {step.alone.sqnr_db:.1f} dB · now "
            f"{step.after.in_words()}",
        )

    with reporter.progress("layers, each alone", layers) as advance:
        told = quantize.Listeners(screened=advance, returned=returned)
        return quantize.integers(
            onnx,
            manifest,
            recipe,
            examiner,
            table,
            preset=options.preset,
            keep=options.keep,
            promise=promise_of(options),
            listeners=told,
        )


def target_of(made: Typed, target: Target) -> str:
    """Return the target that a typed graph is for; a form that is forced upon one makes it none."""
    from engines.form import differences

    return made.manifest.target if differences(made.manifest, target) else target.name


def say(made: Typed, reporter: Reporter) -> None:
    """Print the lines about a typed graph."""
    if made.warning is not None:
        reporter.step("range", f"near the end of float16: {made.warning}", passed=None)
    precision = made.recipe.precision
    if made.manifest.typing == "weak":
        reporter.step(
            "typing",
            f"the graph stays float32 and the builder chooses {precision}: what follows is the "
            "graph's own, check the engine on the board",
            passed=None,
        )
    if made.kept is None:
        text = (
            f"signal to noise (SQNR) {made.row.sqnr_db:.1f} dB · agreement {made.row.agreement:.1%}"
        )
    else:
        policy = made.kept.policy
        text = f"{policy.preset}, {counted(len(policy.active), 'layer')}"
        if policy.kept:
            text += f", {len(policy.kept)} kept in high precision"
        text += f" · {made.kept.quality.in_words()}"
    reporter.step(precision, text, passed=made.row.passed)


def state_path(out: Path) -> Path:
    """Return where an interrupted calibration leaves what it has: `model.int8.partial.json`."""
    return out.with_name(f"{out.stem}.partial.json")


def refuse_overwrite(out: Path, precision: str, *, force: bool) -> None:
    """Refuse to replace any file of a typed graph without force, and the manifest of another.

    Raises:
        UsageError: A file exists, or the name is not that of a graph of its own.
    """
    from calibration.quantize import files_of
    from engines.manifest import refuse_shared_side_car

    for file in files_of(out, quantizes=precision in INTEGERS):
        storage.refuse_overwrite(file, force=force)
    if out.suffix != ".onnx":
        raise UsageError(
            f"a typed graph ends in .onnx, {out.name} does not",
            where=str(out),
            fix=f"call it {out.with_suffix('.onnx')}",
        )
    refuse_shared_side_car(out)


def graphs_of(onnx: Path, options: argparse.Namespace) -> tuple[Path, ...]:
    """Return the graphs beside `onnx`, and itself, of which `--precision` builds one."""
    if options.precision == "fp32":
        return (onnx,)
    if options.precision == BEST:
        return (onnx, *(typed_path(onnx, precision) for precision in PRECISIONS))
    return (typed_path(onnx, options.precision),)


def refuse_all(onnx: Path, options: argparse.Namespace) -> None:
    """Refuse to replace the typed graphs that `--precision` would write beside `onnx`."""
    named = PRECISIONS if options.precision == BEST else (options.precision,)
    for precision in named:
        if precision != "fp32":
            refuse_overwrite(typed_path(onnx, precision), precision, force=options.force)


def _count(options: argparse.Namespace, available: int, where: str) -> int:
    if options.images is None:
        return min(DEFAULT_CALIBRATION, available)
    if options.images > available:
        raise InputError(
            f"{options.images} calibration images were asked for, there are {available}",
            where=where,
            fix=f"give more images, or ask for --images {available}",
        )
    count: int = options.images
    return count


def _observers(text: str) -> dict[str, str]:
    found = {}
    for part in arguments.names(text):
        kind, _, rule = part.partition("=")
        if kind not in SITES or rule not in OBSERVERS:
            wrong, known = (kind, SITES) if kind not in SITES else (rule, OBSERVERS)
            raise argparse.ArgumentTypeError(
                f"{part!r} is not KIND=RULE of {', '.join(SITES)} and {', '.join(OBSERVERS)} "
                + did_you_mean(wrong, known, otherwise="")
            )
        found[kind] = rule
    return found


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return value


def _share(text: str) -> float:
    try:
        value = float(text.removesuffix("%"))
    except ValueError:
        value = -1.0
    if not 0 <= value <= 100:
        raise argparse.ArgumentTypeError(f"{text!r} is not a percentage from 0 to 100")
    return value / 100
