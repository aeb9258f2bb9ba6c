"""`fpet-export estimate X`: what a network would take on a board or GPU that is not here."""

from __future__ import annotations

import argparse
from pathlib import Path

from fpet_export.cli import arguments
from fpet_export.cli.verbs import Outcome
from fpet_export.reporter import Reporter
from fpet_export.requests import made
from fpet_export.workflow import estimate

DESCRIPTION = """\
Predict the latency of a graph on boards and GPUs that are not here: a range in milliseconds, as its
tokens merge and without merging, and what bounds it. A roofline over the network's layers counts
multiply-adds in whole tiles, bytes and kernels; docs/prediction.md says how far off it is. Nothing
is run, and every figure says that it is a prediction.

--measured takes what `bench` measured on a device, to fit the prediction to it.

  fpet-export estimate out/model.fp16.onnx --target jetson-orin-nano-8gb \\
    --power-mode MAXN_SUPER --batches 1,8
  fpet-export estimate out/model.onnx --target h100,l4 --precision fp16,int8
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument(
        "artefact", type=Path, metavar="X", help="a graph or an engine with its manifest"
    )
    parser.add_argument(
        "--target",
        type=arguments.names,
        metavar="A,B",
        help="boards and GPUs (default: what X was made for); see `targets`",
    )
    parser.add_argument(
        "--power-mode",
        metavar="NAME",
        help="of the board, as nvpmodel names it (default: every mode whose peaks are published)",
    )
    parser.add_argument(
        "--precision",
        type=arguments.names,
        metavar="P,P",
        help="of the engines: fp16, bf16, int8, fp8 (default: that of X)",
    )
    parser.add_argument(
        "--batches",
        type=arguments.sizes,
        metavar="N,N",
        help="images of one run (default: the batch of X)",
    )
    parser.add_argument(
        "--measured",
        type=Path,
        nargs="+",
        metavar="FILE|DIR",
        help="measurements to fit the prediction of their devices to",
    )


def run(options: argparse.Namespace, reporter: Reporter) -> Outcome:
    """Predict, and print a table."""
    found = estimate.estimate(made(estimate.EstimateRequest, vars(options)), reporter)
    return Outcome(document=found.to_json(), result="\n".join(found.lines), next=found.next)
