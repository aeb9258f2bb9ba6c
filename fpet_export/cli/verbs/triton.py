"""`fpet-export triton X -o REPO`: a model repository that Triton Inference Server loads."""

from __future__ import annotations

import argparse
from pathlib import Path

from fpet_export.cli import arguments
from fpet_export.cli.verbs import Outcome
from fpet_export.reporter import Reporter
from fpet_export.requests import made
from fpet_export.triton import write

DESCRIPTION = """\
Write REPO/NAME/config.pbtxt and REPO/NAME/1/model.plan or model.onnx, with the class names and the
manifest. A plan of TensorRT is served by the tensorrt backend, a graph or an engine of ONNX Runtime
by the onnxruntime backend. A dynamic batch is batched by the server; a static one is one request.
For a folder of tasks the backbone becomes one model and each task another, with its weights only.

A plan loads only into the TensorRT that built it; docs/triton.md says which images have which.

  fpet-export triton out/model.fp16.tensorrt.plan -o models --instances 2 --gpus 0
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument(
        "artefact", type=Path, metavar="X", help="a graph, an engine, or a folder of tasks"
    )
    arguments.add_output(parser, what="the model repository", required=True)
    parser.add_argument("--name", help="name of the model (default: X without ending, '.' as '_')")
    parser.add_argument(
        "--instances",
        type=arguments.positive,
        default=1,
        metavar="N",
        help="how many run at once, on each GPU or on the CPU (default: 1)",
    )
    arguments.add_failed(parser)
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--gpus", type=_numbers, metavar="0,1", help="GPUs to use (default: all that it sees)"
    )
    where.add_argument("--cpu", action="store_true", help="run on the CPU")
    parser.add_argument(
        "--queue-delay",
        type=arguments.positive,
        metavar="US",
        help="microseconds that a request may wait for others (default: none)",
    )
    parser.add_argument(
        "--model-version",
        type=arguments.positive,
        default=1,
        metavar="N",
        help="folder of the version; the server serves the newest (default: 1)",
    )


def run(options: argparse.Namespace, reporter: Reporter) -> Outcome:
    """Check the artefact, then write the repository."""
    found = write.write(made(write.TritonRequest, vars(options)), reporter)
    return Outcome(document=found.to_json(), result=str(found.home), next=found.next)


def _numbers(text: str) -> tuple[int, ...]:
    parts = arguments.names(text)
    if not parts or not all(part.isdecimal() for part in parts) or len({*parts}) != len(parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of GPU numbers, such as 0,1")
    return tuple(int(part) for part in parts)
