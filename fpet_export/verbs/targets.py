"""`fpet-export targets`: where an engine can run."""

from __future__ import annotations

import argparse
import dataclasses

from engines import registry, targets
from engines.engine import load_target
from fpet_export.console import Console
from fpet_export.verbs import Outcome

HELP = "list the places an engine can run"
DESCRIPTION = "List every target with its runtime, opset and GPU generations; -v adds the sources."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing."""


def run(options: argparse.Namespace, console: Console) -> Outcome:
    """Print the table."""
    entries = [load_target(name) for name in registry.available(targets)]
    rows = [("target", "runtime", "opset", "typing", "last block", "precisions", "summary")]
    for entry in entries:
        rows.append(
            (
                entry.name,
                entry.module,
                f"{entry.opset} (up to {entry.opset_ceiling})",
                entry.typing,
                entry.last_block,
                ",".join(entry.precisions),
                entry.summary,
            )
        )
    console.table(rows)
    for entry in entries:
        for source in entry.sources:
            console.detail(f"{entry.name}: {source}")
    return Outcome(
        document={"targets": [dataclasses.asdict(entry) for entry in entries]},
        result=" ".join(entry.name for entry in entries),
        next=["fpet-export build MODEL.onnx --target NAME"],
    )
