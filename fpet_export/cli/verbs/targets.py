"""`fpet-export targets`: where an engine can run."""

from __future__ import annotations

import argparse

from fpet_export.cli import terminal
from fpet_export.cli.verbs import Outcome
from fpet_export.reporter import Reporter
from fpet_export.requests import made
from fpet_export.workflow import targets

DESCRIPTION = """\
List the boards, GPUs and runtimes that graphs are written and engines are built
for.

A board or a GPU may have several releases of software; `NAME@RELEASE` names one, `NAME` alone means
its usual one. -v adds every fact with its source.

  fpet-export targets jetson-orin-nano-8gb
  fpet-export build out/model.onnx --target jetson-orin-nano-8gb@jp6.2
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's argument."""
    parser.add_argument("target", nargs="?", metavar="NAME[@RELEASE]", help="show this one in full")


def run(options: argparse.Namespace, reporter: Reporter) -> Outcome:
    """Print the tables, or one target in full."""
    found = targets.targets(made(targets.TargetsRequest, vars(options)), reporter)
    names = terminal.wrapped(" ".join(found.names))
    return Outcome(document=found.to_json(), result=names, next=found.next)
