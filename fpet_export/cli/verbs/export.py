"""`fpet-export export RUN -o OUT`: read, fold, freeze, write ONNX, prove parity."""

from __future__ import annotations

import argparse

from fpet_export.cli import arguments, quantize_arguments
from fpet_export.cli.verbs import Outcome
from fpet_export.reporter import Reporter
from fpet_export.requests import made
from fpet_export.workflow import export

DESCRIPTION = """\
Read a run, fold its adapters, freeze its token merge and write ONNX.

Leaves OUT/model.onnx, OUT/model.manifest.json and OUT/parity.json, with --precision a typed graph
beside them (see `quantize`), and exits 7 when a stage drifts from the float64 reference.

  fpet-export export runs/lora/digits --backbone backbone.safetensors -o out
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    arguments.add_run(parser)
    arguments.add_output(parser, what="folder to write", required=True)
    parser.add_argument(
        "--target",
        default="cpu",
        help="where the graph will run; decides the opset and its form (see `targets`)",
    )
    arguments.add_merge(parser)
    arguments.add_graph(parser)
    quantize_arguments.add_precision(parser)
    quantize_arguments.add_rounds(parser)
    arguments.add_data(parser, limit=None)


def run(options: argparse.Namespace, reporter: Reporter) -> Outcome:
    """Export, and judge every stage."""
    exported = export.export(made(export.ExportRequest, vars(options)), reporter)
    return Outcome(document=exported.to_json(), result=str(exported.graph), next=exported.next)
