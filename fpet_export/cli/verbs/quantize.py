"""`fpet-export quantize ONNX --precision P`: float32 graph to typed graph, with a promise."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from engines.errors import InputError, UsageError
from engines.manifest import Manifest, read_manifest
from fpet_export.cli import arguments, quantize_arguments
from fpet_export.cli.verbs import Outcome
from fpet_export.reporter import Reporter
from fpet_export.workflow import images as _images
from fpet_export.workflow import next_commands, usable
from fpet_export.workflow import typed_graph as _quantize

if TYPE_CHECKING:
    from calibration.examine import Examiner
    from calibration.table import CalibrationTable
    from engines.parity.rows import ParityTable, StageParity
    from engines.targets import Target

GROUP = "make"
HELP = "write a graph's precision into it: FP16, BF16, INT8 or FP8"
DESCRIPTION = """\
Turn an exported float32 graph into a typed one for the target it was exported for.

FP16 and BF16 keep the token match in float32 and look for activations that leave float16's range.
INT8 and FP8 quantize the linears of every block, and with --preset vit-attention its attention;
ranges come from --calibration images. A limit on accuracy (--max-drop on labelled images,
--min-sqnr or --min-agreement without labels) is met by reverting the worst layers to half
precision, one by one; else the command ends with exit code 8. `best` makes every precision that
the target runs, measures them here, and names the fastest that meets the limits.

Leaves model.P.onnx and its manifest, and for INT8 and FP8 model.P.table.json, the calibration. An
interrupted calibration continues when the same command is given again.

  fpet-export quantize out/model.onnx --precision fp16
  fpet-export quantize out/model.onnx --precision int8 --calibration train/ --data val/ --max-drop 1
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("onnx", type=Path, metavar="ONNX", help="an exported float32 graph")
    parser.add_argument(
        "--precision",
        required=True,
        choices=(*_quantize.PRECISIONS, _quantize.BEST),
        help="what to write",
    )
    parser.add_argument("--target", help="where it will run (default: what it was exported for)")
    arguments.add_output(parser, what="file to write (default: model.PRECISION.onnx beside it)")
    quantize_arguments.add_arguments(parser)
    arguments.add_data(parser)
    quantize_arguments.add_rounds(parser)
    arguments.add_failed(parser)
    arguments.add_form(parser)


def run(options: argparse.Namespace, reporter: Reporter) -> Outcome:
    """Calibrate where needed, type the graph, keep the promise, judge."""
    from engines.engine import load_target
    from engines.tasks.index import is_folder

    if is_folder(options.onnx) or is_folder(options.onnx.parent):
        raise UsageError(
            "the graphs of a folder of tasks are not quantized",
            where=str(options.onnx),
            fix="write them in half precision, from their runs: `tasks` with --precision fp16",
        )
    manifest = _float32_manifest(options.onnx)
    target = load_target(options.target or manifest.target)
    usable.require(options.onnx, manifest, options, reporter)
    usable.require_form(options.onnx, manifest, target, options, reporter)
    precisions = _quantize.precisions_of(options, target)
    best = options.precision == _quantize.BEST
    if best and options.out is not None:
        raise UsageError(
            "`best` writes a graph for each precision, beside the float32 one",
            where="--out",
            fix="leave --out out",
        )
    if best:
        from fpet_export.workflow import best as _best

        _best.require_runnable(options.onnx, target, options, reporter)
    outs = [options.out or _quantize.typed_path(options.onnx, name) for name in precisions]
    for out, name in zip(outs, precisions, strict=True):
        _quantize.refuse_overwrite(out, name, force=options.force)
    examiner, table = _prepared(options, reporter, manifest, precisions, outs[-1])
    if best:
        return _fastest(options, reporter, target, examiner, table)
    return _one(options, reporter, target, examiner, table, outs[0])


def _float32_manifest(onnx: Path) -> Manifest:
    """Return the manifest of a graph that can be typed, and refuse others."""
    from engines.parity.evidence import preprocessing_of

    preprocessing_of(onnx)
    manifest = read_manifest(onnx)
    if manifest.kind != "graph" or manifest.precision != "fp32":
        raise InputError(
            f"this {manifest.kind} is {manifest.precision} already: a typed graph is made from a "
            "float32 one",
            where=str(onnx),
            fix=f"quantize {manifest.parents[0].file if manifest.parents else 'the export'}",
        )
    return manifest


def _prepared(
    options: argparse.Namespace,
    reporter: Reporter,
    manifest: Manifest,
    precisions: tuple[str, ...],
    out: Path,
) -> tuple[Examiner, CalibrationTable | None]:
    """Calibrate where a precision needs it, and run the float32 graph over the check's images."""
    from calibration.examine import examiner_for
    from fpet_export.workflow.verify import DEFAULT_IMAGES

    assert manifest.preprocessing is not None
    needs = any(name in _quantize.INTEGERS for name in precisions)
    count = None if manifest.model is None else manifest.model.classes
    known = _images.known_classes(count, options.labels, [manifest])
    found = _quantize.sources(
        options, manifest.preprocessing, known, reporter, needs=needs, limit=options.limit
    )
    table = None
    if needs:
        state = _quantize.state_path(out)
        table = _quantize.calibrated(
            options.onnx, options, reporter, found.calibration, state=state
        )
        _quantize.warn_of_overlap(table, found.check, reporter)
    images = found.images(manifest.preprocessing, default=min(DEFAULT_IMAGES, options.limit))
    with reporter.progress("float32 graph", len(images)) as advance:
        examiner = examiner_for(options.onnx, manifest, images, progress=advance)
    return examiner, table


def _one(
    options: argparse.Namespace,
    reporter: Reporter,
    target: Target,
    examiner: Examiner,
    table: CalibrationTable | None,
    out: Path,
) -> Outcome:
    from calibration import quantize
    from fpet_export.workflow import steps

    recipe = _quantize.recipe_of(options, target, options.precision)
    made = _quantize.make(options.onnx, recipe, examiner, options, reporter, table=table)
    _quantize.say(made, reporter)
    parity = _table(options.onnx, examiner, made.row)
    steps.show_table(parity, reporter)
    steps.require(parity)
    document = parity.to_json()
    quantize.write(
        made,
        options.onnx,
        out,
        table=table,
        parity=document,
        target=_quantize.target_of(made, target),
        force=options.force,
        command=options.command,
    )
    final = read_manifest(out)
    return Outcome(
        document={
            "onnx": str(out),
            "parity": document,
            "manifest": dataclasses.asdict(final),
            "promise": None if made.kept is None else made.kept.to_json(),
        },
        result=str(out),
        next=[usable.go_on(next_commands.build_or_bundle(out, target), final)],
    )


def _table(onnx: Path, examiner: Examiner, row: StageParity) -> ParityTable:
    """Return what is kept in the manifest of a typed graph."""
    from engines.parity.rows import ParityTable

    return ParityTable(
        **examiner.images.in_words(), reference=f"float32 graph {onnx.name}", rows=(row,)
    )


def _fastest(
    options: argparse.Namespace,
    reporter: Reporter,
    target: Target,
    examiner: Examiner,
    table: CalibrationTable | None,
) -> Outcome:
    from fpet_export.workflow import best as _best

    found = _best.candidates(
        options.onnx,
        target,
        examiner,
        options,
        reporter,
        table=table,
        parity_of=lambda row: _table(options.onnx, examiner, row).to_json(),
    )
    chosen = _best.choose(found, target, options, reporter)
    return Outcome(
        document={"onnx": str(chosen.graph), **_best.remembered(chosen)},
        result=str(chosen.graph),
        next=[next_commands.build_or_bundle(chosen.graph, target)],
    )
