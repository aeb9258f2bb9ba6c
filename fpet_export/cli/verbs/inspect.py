"""`fpet-export inspect RUN`: what a run is, and how each fact was found."""

from __future__ import annotations

import argparse

from fpet_export.cli import arguments
from fpet_export.cli.verbs import Outcome
from fpet_export.reporter import Reporter
from fpet_export.requests import made
from fpet_export.workflow import inspect

DESCRIPTION = """\
Read a run strictly and print every setting with its source, tokens and multiply-adds of each
block, what folds, and the SHA-256 of each file. For a folder that `tasks` wrote, check every byte
and list its tasks. Writes nothing.

  fpet-export inspect runs/lora/digits --backbone backbone.safetensors
  fpet-export inspect my-vit/ --merge tome:r=8
  fpet-export inspect out
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    arguments.add_run(parser)
    arguments.add_stated_merge(parser)


def run(options: argparse.Namespace, reporter: Reporter) -> Outcome:
    """Read the run, or the folder of tasks, and describe it."""
    found = inspect.inspect(made(inspect.InspectRequest, vars(options)), reporter)
    return Outcome(document=found.to_json(), result=found.name, next=found.next)
