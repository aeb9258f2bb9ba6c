"""`fpet-export quantize ONNX --precision P`: float32 graph to typed graph, with a promise."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from engines.errors import InputError
from engines.manifest import read_manifest, write_manifest
from fpet_export.console import Console
from fpet_export.verbs import Outcome, _arguments, _quantize

HELP = "write a graph's precision into it: FP16, BF16, INT8 or FP8"
DESCRIPTION = """\
Turn an exported float32 graph into a typed one for the target it was exported for.

FP16 and BF16 keep the token match in float32 and look for activations that leave float16's range.
INT8 and FP8 quantize the linears of every block, and with --preset vit-attention its attention;
ranges come from --calibration images. A promise (--max-drop on labelled images, --min-sqnr or
--min-agreement without labels) is kept by putting the worst layers back, else exit 8.

Leaves model.P.onnx and its manifest, and for INT8 and FP8 model.P.table.json, the calibration. An
interrupted calibration goes on where it was when the same command is given again.

  fpet-export quantize out/model.onnx --precision fp16
  fpet-export quantize out/model.onnx --precision int8 --calibration train/ --data val/ --max-drop 1
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("onnx", type=Path, metavar="ONNX", help="an exported float32 graph")
    parser.add_argument(
        "--precision", required=True, choices=("fp16", "bf16", "int8", "fp8"), help="what to write"
    )
    parser.add_argument("--target", help="where it will run (default: what it was exported for)")
    _arguments.add_output(parser, what="file to write (default: model.PRECISION.onnx beside it)")
    _quantize.add_arguments(parser)
    _arguments.add_data(parser)


def run(options: argparse.Namespace, console: Console) -> Outcome:
    """Calibrate where needed, type the graph, keep the promise, judge."""
    from calibration import quantize
    from calibration.examine import examiner_for
    from engines.evidence import preprocessing_of
    from engines.image_source import collect
    from engines.parity import ParityTable
    from engines.synthetic import synthetic_set
    from fpet_export.verbs import _steps
    from fpet_export.verify import check_labels

    onnx, precision = options.onnx, options.precision
    preprocessing = preprocessing_of(onnx)
    manifest = read_manifest(onnx)
    if manifest.kind != "graph" or manifest.precision != "fp32":
        raise InputError(
            f"this is a {manifest.precision} {manifest.kind}; a typed graph is made from float32",
            where=str(onnx),
            fix=f"quantize {manifest.parents[0].file if manifest.parents else 'the export'}",
        )
    out = options.out or onnx.with_name(f"{onnx.stem}.{precision}.onnx")
    recipe = _quantize.recipe_of(options, manifest, precision)
    _quantize.refuse_overwrite(out, precision, force=options.force)
    found = _quantize.sources(options, preprocessing, precision)
    table = None
    if recipe.quantizes:
        state = _quantize.state_path(out)
        table = _quantize.calibrated(onnx, options, console, found.calibration, state=state)
        _quantize.warn_of_overlap(table, found.check, console)
    if found.check is not None:
        images = collect(found.check)
    else:
        images = synthetic_set(preprocessing.size, min(8, options.limit))
    if manifest.model is not None:
        check_labels(images, manifest.model.classes)
    with console.progress("float32 graph", len(images)) as advance:
        examiner = examiner_for(onnx, manifest, images, progress=advance)
    made = _quantize.make(onnx, recipe, examiner, options, console, table=table)
    _quantize.say(made, console)
    parity = ParityTable(
        images=images.description, reference=f"float32 graph {onnx.name}", rows=(made.row,)
    )
    _steps.show_table(parity, console)
    _steps.require(parity)
    quantize.write(made, onnx, out, table=table, force=options.force, command=options.command)
    document = parity.to_json()
    final = write_manifest(out, dataclasses.replace(read_manifest(out), parity=document))
    target = options.target or manifest.target
    return Outcome(
        document={
            "onnx": str(out),
            "parity": document,
            "manifest": dataclasses.asdict(final),
            "promise": None if made.kept is None else made.kept.to_json(),
        },
        result=str(out),
        next=[f"fpet-export build {out} --target {target}"],
    )
