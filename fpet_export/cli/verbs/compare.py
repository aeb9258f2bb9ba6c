"""`fpet-export compare A B [C…]`: parity of any artefacts."""

from __future__ import annotations

import argparse

from fpet_export.cli import arguments
from fpet_export.cli.verbs import Outcome
from fpet_export.reporter import Reporter
from fpet_export.requests import made
from fpet_export.workflow import compare

DESCRIPTION = """\
Compare artefacts with the first one: a run (its float64 model), graphs (.onnx) or engines.

Exits 7 and names the first one that drifts. Each artefact is held to the gates of its precision: a
typed graph is executed as it is written, and a different match counts as an error only where its
own keys do not explain it.

  fpet-export compare runs/lora/digits out/model.onnx --backbone backbone.safetensors
  fpet-export compare out/model.onnx out/model.cpu.onnx --data val/
  # one task of a folder of tasks:
  fpet-export compare runs/pets out --task pets --data val/
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument(
        "artefacts",
        nargs="+",
        metavar="X",
        help="a run, .onnx or engine files, folders of tasks",
    )
    parser.add_argument("--task", metavar="NAME", help="which task of a folder of tasks")
    arguments.add_run(parser, positional=False)
    arguments.add_data(parser)
    arguments.add_output(parser, what="where to write the table (default: only printed)")
    parser.add_argument(
        "--relative",
        type=arguments.amount,
        help="largest relative difference (default: 1e-4 for float32, 2e-2 for fp16, 1e-1 for "
        "bf16; INT8 and FP8 are shown and not judged by it)",
    )


def run(options: argparse.Namespace, reporter: Reporter) -> Outcome:
    """Compare, print the table, and judge it."""
    found = compare.compare(made(compare.CompareRequest, vars(options)), reporter)
    result = "equal within the gates" if found.out is None else str(found.out)
    return Outcome(document=found.to_json(), result=result)
