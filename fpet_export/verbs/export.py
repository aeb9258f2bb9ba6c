"""`fpet-export export RUN -o OUT`: read, fold, freeze, write ONNX, prove parity."""

from __future__ import annotations

import argparse
import dataclasses
import json

from engines import storage
from engines.manifest import manifest_path, read_manifest
from fpet_export.console import Console
from fpet_export.verbs import Outcome, _arguments, _commands, _quantize, _steps

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
    _arguments.add_run(parser)
    _arguments.add_output(parser, what="folder to write", required=True)
    parser.add_argument(
        "--target",
        default="cpu",
        help="where the graph will run; decides the opset and its form (see `targets`)",
    )
    _arguments.add_graph(parser)
    _quantize.add_precision(parser)
    _quantize.add_rounds(parser)
    _arguments.add_data(parser, limit=None)


def run(options: argparse.Namespace, console: Console) -> Outcome:
    """Export, and judge every stage."""
    from engines.engine import load_target

    path = options.out / "model.onnx"
    for file in (path, manifest_path(path), options.out / "parity.json"):
        storage.refuse_overwrite(file, force=options.force)
    _quantize.refuse_all(path, options)
    started = _steps.start(options, console)
    exported = _steps.export(started, options, console, path=path, target=options.target)
    typed = _steps.type_graph(started, options, console, exported, options.target)
    table = started.table(typed.rows)
    _steps.show_table(table, console)
    document = table.to_json()
    storage.write_text(options.out / "parity.json", json.dumps(document, indent=1) + "\n")
    _steps.require(table)
    manifest = read_manifest(typed.path, verify=False)  # compared with its bytes by its check
    return Outcome(
        document={
            "onnx": str(typed.path),
            "parity": document,
            "manifest": dataclasses.asdict(manifest),
        },
        result=str(typed.path),
        next=[
            _commands.build_or_bundle(typed.path, load_target(options.target)),
            *_commands.show_merge(
                path, read_manifest(path, verify=False), _commands.first_image(options.data)
            ),
        ],
    )
