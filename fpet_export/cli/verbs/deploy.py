"""`fpet-export deploy RUN --target T[,T]`: everything in one go."""

from __future__ import annotations

import argparse

from fpet_export.cli import arguments, quantize_arguments, remote_arguments
from fpet_export.cli.verbs import Outcome
from fpet_export.reporter import Reporter
from fpet_export.requests import made
from fpet_export.workflow import deploy

DESCRIPTION = """\
Export a run for each target, prove parity at every stage, build the engines, measure those that
run here against the plain ViT, and write one HTML page.

Leaves OUT/TARGET/model.onnx and its engine with their manifests, OUT/parity.json,
OUT/latency.json, OUT/merge.png and OUT/report.html. With --remote a board builds the engines
through ssh, checks them, and measures them against the plain ViT in the same rounds; `--precision
best` sends every precision that meets the limits and fetches the one that is fastest there.

  fpet-export deploy runs/lora/digits --backbone backbone.safetensors --target cpu,rtx -o out
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    arguments.add_run(parser)
    arguments.add_output(parser, what="folder to write", required=True)
    parser.add_argument(
        "--target", default="cpu", metavar="T,T", help="targets (default: cpu; see `targets`)"
    )
    arguments.add_merge(parser)
    arguments.add_graph(parser)
    quantize_arguments.add_precision(parser)
    arguments.add_data(parser, limit=None)
    group = parser.add_argument_group("the measurement")
    group.add_argument(
        "--peers",
        type=arguments.names,
        default=(),
        metavar="A,B|all",
        help="peers of the plain model",
    )
    arguments.add_duration(
        group, noise="take fewer rounds than a verdict needs; the numbers are marked as not valid"
    )
    arguments.add_energy(group)
    arguments.add_setting(group)
    group.add_argument(
        "--bench",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="measure the engines that run against the plain ViT",
    )
    remote_arguments.add_arguments(parser)


def run(options: argparse.Namespace, reporter: Reporter) -> Outcome:
    """Run every step; a missed gate stops after its evidence is written."""
    done = deploy.deploy(made(deploy.DeployRequest, vars(options)), reporter)
    return Outcome(document=done.to_json(), result=str(done.report), next=done.next)
