"""`fpet-export export RUN -o OUT`: read, fold, freeze, write ONNX, prove parity."""

from __future__ import annotations

import argparse
import dataclasses
import json

from engines import storage
from engines.manifest import manifest_path, read_manifest
from fpet_export.cli import arguments, quantize_arguments
from fpet_export.cli.verbs import Outcome
from fpet_export.reporter import Reporter
from fpet_export.workflow import next_commands, steps, typed_graph

GROUP = "make"
HELP = "turn a fine-tuned run into a checked ONNX graph"
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
    arguments.add_graph(parser)
    quantize_arguments.add_precision(parser)
    quantize_arguments.add_rounds(parser)
    arguments.add_data(parser, limit=None)


def run(options: argparse.Namespace, reporter: Reporter) -> Outcome:
    """Export, and judge every stage."""
    from engines.engine import load_target

    path = options.out / "model.onnx"
    for file in (path, manifest_path(path), options.out / "parity.json"):
        storage.refuse_overwrite(file, force=options.force)
    typed_graph.refuse_all(path, options)
    started = steps.start(options, reporter)
    exported = steps.export(started, options, reporter, path=path, target=options.target)
    typed = steps.type_graph(started, options, reporter, exported, options.target)
    table = started.table(typed.rows)
    steps.show_table(table, reporter)
    document = table.to_json()
    storage.write_text(options.out / "parity.json", json.dumps(document, indent=1) + "\n")
    steps.require(table)
    manifest = read_manifest(typed.path, verify=False)  # compared with its bytes by its check
    return Outcome(
        document={
            "onnx": str(typed.path),
            "parity": document,
            "manifest": dataclasses.asdict(manifest),
        },
        result=str(typed.path),
        next=[
            next_commands.build_or_bundle(typed.path, load_target(options.target)),
            *next_commands.show_merge(
                path, read_manifest(path, verify=False), next_commands.first_image(options.data)
            ),
        ],
    )
