"""`fpet-export show`: which patches merged into which, or which kernels a plan has."""

from __future__ import annotations

import argparse
from pathlib import Path

from fpet_export.cli.verbs import Outcome
from fpet_export.reporter import Reporter
from fpet_export.requests import made
from fpet_export.workflow import show

DESCRIPTION = """\
For an exported graph and an image, draw the merge: the image, and beside it its patches, those
that became one token in one colour with one outline. For a TensorRT plan, draw its kernels from
the fusion report that `build` wrote beside it: one row for each block, coloured by the type of
each kernel.

  fpet-export show out/model.onnx cat.jpg -o merge.png
  fpet-export show out/model.rtx.plan -o fusion.png
  # a folder that `tasks` wrote:
  fpet-export show out cat.jpg --task pets -o merge.png
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument(
        "artefact",
        type=Path,
        metavar="ONNX|PLAN",
        help="an exported graph, a plan, or a folder of tasks",
    )
    parser.add_argument("--task", metavar="NAME", help="which task of a folder of tasks")
    parser.add_argument("image", type=Path, nargs="?", metavar="IMG", help="an image, for a graph")
    parser.add_argument("-o", "--out", type=Path, required=True, help="PNG to write")
    parser.add_argument("--force", action="store_true", help="replace a file that exists")


def run(options: argparse.Namespace, reporter: Reporter) -> Outcome:
    """Draw one picture."""
    drawn = show.show(made(show.ShowRequest, vars(options)), reporter)
    return Outcome(document=drawn.to_json(), result=str(drawn.png))
