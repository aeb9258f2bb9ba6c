"""`fpet-export tasks RUN… -o OUT`: many runs of one backbone in one folder."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import get_args

from engines import precisions
from fpet_export.cli import arguments
from fpet_export.cli.verbs import Outcome
from fpet_export.reporter import Reporter
from fpet_export.requests import made
from fpet_export.tasks import write

DESCRIPTION = """\
Write the backbone once, as a graph that takes the weights of a task as inputs, and one small file
for each run: adapters, refinement, head. One engine then serves all of them.

Leaves OUT/tasks.json, OUT/backbone….onnx, OUT/tasks/NAME.safetensors with their manifests and
OUT/parity.json; exits 7 when a task drifts from its float64 reference or from its own export. A
task is named after the files of its run, or as NAME=RUN says.

--add puts runs into a folder that exists (with --force they replace tasks of the same names),
--drop takes tasks out. All others keep their bytes, and engines stay valid: a run that fits no
graph of the folder is refused, unless --new-graph writes one for it. If the command fails,
nothing changes.

  fpet-export tasks lora=runs/lora/digits adapt=runs/adaptformer/digits --backbone B -o out
  fpet-export predict out --task lora IMAGE
  fpet-export tasks third=runs/lora/third --backbone B -o out --add
  fpet-export tasks -o out --drop adapt
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument(
        "runs", nargs="*", metavar="[NAME=]RUN", help="runs, as `export` takes them, and names"
    )
    arguments.add_run(parser, positional=False)
    arguments.add_output(parser, what="folder to write", required=True)
    parser.add_argument("--html", type=Path, help="also write one self-contained HTML page")
    group = parser.add_argument_group("a folder that exists")
    group.add_argument("--add", action="store_true", help="put the runs into it")
    group.add_argument(
        "--new-graph",
        action="store_true",
        help="with --add: write a further graph for runs that none of the folder takes",
    )
    group.add_argument(
        "--drop", type=arguments.names, metavar="NAME[,NAME]", help="take tasks out of it"
    )
    parser.add_argument(
        "--target",
        help="where the graph will run; decides what its inputs are (see docs/tasks.md; default: "
        "cpu)",
    )
    parser.add_argument(
        "--precision",
        choices=get_args(precisions.FactorName),
        default=precisions.FP32,
        help="type of the shared graph, and of what tasks feed to it (default: fp32)",
    )
    parser.add_argument(
        "--half",
        choices=(precisions.FP16,),
        help="keep dense adapter factors in float16; their error is measured and recorded",
    )
    arguments.add_failed(parser)
    arguments.add_images(parser)
    parser.add_argument("--opset", type=arguments.positive, metavar="N", help="ONNX opset")
    arguments.add_data(parser, by="task")


def run(options: argparse.Namespace, reporter: Reporter) -> Outcome:
    """Write the folder, or change it, and judge every task."""
    found = write.write(made(write.TasksRequest, vars(options)), reporter)
    return Outcome(document=found.to_json(), result=str(found.folder), next=found.next)
