"""`fpet-export bundle X`: everything that a board needs, in one archive."""

from __future__ import annotations

import argparse
from pathlib import Path

from fpet_export.cli import arguments
from fpet_export.cli.verbs import Outcome
from fpet_export.reporter import Reporter
from fpet_export.requests import made
from fpet_export.tasks import bundle

DESCRIPTION = """\
Pack a graph (better) or an engine with its manifest, a few images with what the graph says about
them, the board agent and a README into one archive. On the board the system's Python, numpy and
TensorRT or ONNX Runtime are enough:

  tar xf model.bundle.tar; python3 agent.pyz doctor; python3 agent.pyz build

`check` there compares the engine with this machine's graph, `bench` measures it, `predict` uses it.
A folder of tasks is packed whole, with images and answers of every task.
--with-plain packs the plain model too, for `python3 agent.pyz bench --against plain` on the board.
With --key the archive is signed too; `verify` checks hashes and signature.

  fpet-export bundle out/model.fp16.onnx --target jetson-orin-nano-8gb --data val/ --key id_ed25519
  fpet-export bundle out --target jetson-orin-nano-8gb --data pets=val/pets --data cars=val/cars
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument(
        "artefact", type=Path, metavar="X", help="a graph, an engine or a folder of tasks"
    )
    parser.add_argument("--target", help="where it will run (default: what it was exported for)")
    arguments.add_output(parser, what="archive to write (default: X.bundle.tar beside it)")
    arguments.add_data(parser, limit=16, by="task")
    parser.add_argument(
        "--with-plain",
        action="store_true",
        help="pack the same architecture without merging too, to be measured against",
    )
    arguments.add_failed(parser)
    arguments.add_form(parser)
    parser.add_argument("--key", type=Path, help="SSH key to sign the archive with")


def run(options: argparse.Namespace, reporter: Reporter) -> Outcome:
    """Check, collect, write, and sign where asked to."""
    found = bundle.bundle(made(bundle.BundleRequest, vars(options)), reporter)
    return Outcome(document=found.to_json(), result=str(found.path), next=found.next)
