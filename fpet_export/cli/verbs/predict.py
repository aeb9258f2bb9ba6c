"""`fpet-export predict X IMG…`: classes for images."""

from __future__ import annotations

import argparse
from pathlib import Path

from fpet_export.cli import arguments
from fpet_export.cli.verbs import Outcome
from fpet_export.reporter import Reporter
from fpet_export.requests import made
from fpet_export.workflow import predict

DESCRIPTION = """\
Classify images with the preprocessing that the artefact's manifest states. A
folder stands for every image below it; what is left out is counted.

  fpet-export predict out/model.cpu.onnx cat.jpg dog.jpg --top 3
  # every image below the folder:
  fpet-export predict out/model.cpu.onnx photos/
  # a folder that `tasks` wrote:
  fpet-export predict out --task pets cat.jpg
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument(
        "artefact", type=Path, metavar="X", help="a graph, an engine, or a folder of tasks"
    )
    parser.add_argument(
        "images", type=Path, nargs="+", metavar="IMG", help="image files, or folders of them"
    )
    parser.add_argument("--task", metavar="NAME", help="which task of a folder of tasks")
    parser.add_argument(
        "--signers", type=Path, metavar="FILE", help="open it only if one of these has signed it"
    )
    arguments.add_running(parser)
    arguments.add_failed(parser)
    parser.add_argument("--top", type=int, default=1, help="classes to print (default: 1)")
    arguments.add_skip_bad(parser)


def run(options: argparse.Namespace, reporter: Reporter) -> Outcome:
    """Print one line an image: its classes and their probabilities."""
    found = predict.predict(made(predict.PredictRequest, vars(options)), reporter)
    lines = [one.in_words() for one in found.predictions]
    return Outcome(document=found.to_json(), result="\n".join(lines))
