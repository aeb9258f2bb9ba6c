"""The verbs of the command line: one file a verb, named as it is typed."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

from fpet_export.reporter import Reporter

VERBS: dict[str, dict[str, str]] = {
    "from a run to an engine": {
        "build": "build an engine from a graph",
        "deploy": "do all of it: export, check, build, measure, report",
        "export": "turn a fine-tuned run into a checked ONNX graph",
        "inspect": "say what a run is and how each fact was found, or what is in a folder of tasks",
        "quantize": "write a graph's precision into it: FP16, BF16, INT8 or FP8",
        "sweep": "compute a grid of runs, merges, batches, precisions and targets, and compare",
        "tasks": "put many runs of one backbone into one folder that shares it",
    },
    "whether it is right and faster": {
        "bench": "measure latency, paired and interleaved, and say whether it is really faster",
        "check": "compare an engine with the answers of its graph on the machine that bundled it",
        "compare": "compare a run, graphs and engines on the same images",
        "estimate": "predict what a graph would take on a board or GPU that is not here",
        "report": "put results of several boards side by side: page, Markdown, CSV",
        "show": "draw which patches merged into which, or the kernels of a plan",
    },
    "to use it": {
        "deepstream": "write what DeepStream's Gst-nvinfer needs to run a plan",
        "predict": "classify images with a graph or an engine",
        "triton": "write a model repository for Triton Inference Server",
    },
    "for another machine": {
        "bundle": "pack a graph, an engine or tasks for another machine, with the agent that "
        "builds and checks",
        "sign": "sign a graph, an engine or a bundle with an SSH key",
        "verify": "check hashes and signature of an artefact or a bundle, and open nothing",
    },
    "about machines": {
        "doctor": "say what this machine can do and what is missing",
        "targets": "list the boards, GPUs and runtimes that engines are built for",
    },
}
"""What each verb does in one line, under headings, in the order in which the help lists them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a verb leaves for its caller.

    Attributes:
        document: Everything it found, for `--json`.
        result: The one line on stdout: the path written, or the answer.
        next: Commands to type next.
        exit_code: 0, or that of a failure which was already reported.
    """

    document: dict[str, Any]
    result: str = ""
    next: Sequence[str] = ()
    exit_code: int = 0


class Verb(Protocol):
    """What a file in `fpet_export/cli/verbs/` offers."""

    DESCRIPTION: str
    """What it does, what it leaves, and an example."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the verb's arguments."""

    def run(self, options: argparse.Namespace, reporter: Reporter) -> Outcome:
        """Do it. Whatever goes wrong is raised as an FpetError."""
