"""`fpet-export check ENGINE`: the engine on this machine against what its graph said on another."""

from __future__ import annotations

import argparse
from pathlib import Path

from fpet_export.cli import arguments
from fpet_export.cli.verbs import Outcome
from fpet_export.reporter import Reporter
from fpet_export.requests import made
from fpet_export.workflow import check

DESCRIPTION = """\
Run an engine on the images of a check file (`bundle` writes one: a few images with the logits of
the graph, and how far an engine may be from them) and compare. Exits 7 when it drifts. In the
folder of a bundle of tasks, every task is compared with its own check file.

  fpet-export check board/model.tensorrt.plan --expect board/model.check.npz
  fpet-export check board --task pets,cars
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument(
        "engine", type=Path, metavar="ENGINE", help="an engine, a graph, or a folder of tasks"
    )
    parser.add_argument(
        "--expect",
        type=Path,
        metavar="NPZ",
        help="the check file (default: the only *.check.npz beside the engine)",
    )
    arguments.add_tasks(parser)
    arguments.add_failed(parser)


def run(options: argparse.Namespace, reporter: Reporter) -> Outcome:
    """Run, print the row, and judge it."""
    found = check.check(made(check.CheckRequest, vars(options)), reporter)
    return Outcome(document=found.to_json(), result=str(found.engine), next=found.next)
