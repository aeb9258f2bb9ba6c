"""`fpet-export quantize ONNX --precision P`: float32 graph to typed graph, with a promise."""

from __future__ import annotations

import argparse
from pathlib import Path

from engines import precisions
from fpet_export import requests
from fpet_export.cli import arguments, quantize_arguments
from fpet_export.cli.verbs import Outcome
from fpet_export.reporter import Reporter
from fpet_export.workflow import quantize

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
        choices=(*precisions.TYPED, requests.BEST),
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
    """Type the graph, and judge it."""
    made = quantize.quantize(requests.made(quantize.QuantizeRequest, vars(options)), reporter)
    return Outcome(document=made.to_json(), result=str(made.graph), next=made.next)
