"""`fpet-export build ONNX --target T`: an engine and its side-car."""

from __future__ import annotations

import argparse
from pathlib import Path

from fpet_export.cli import arguments, remote_arguments
from fpet_export.cli.verbs import Outcome
from fpet_export.reporter import Reporter
from fpet_export.requests import made
from fpet_export.tasks import build as task_builds
from fpet_export.workflow import build

DESCRIPTION = """\
Build the engine of a target from an exported graph, with its manifest beside it.

`cpu` gives an ONNX Runtime model that was optimised once, `openvino` one that OpenVINO runs, `rtx`
a TensorRT-RTX plan, built without a GPU for the compute capabilities that are named, `tensorrt`
a plan for the GPU of this machine, `torch-cpu` and `torch-cuda` a package of PyTorch for this
machine. A board or a card is named with its software, as in jetson-orin-nano-8gb@jp6.2 or
rtx-4090@rtx (see `targets`). A graph whose opset or precision the target does not take is refused,
and one that was exported for a target of another form, with the command that exports it again
(--force-form builds it all the same).

Where the engine can run here, its logits are compared with the graph's; that of a quantized graph
may differ by three times what the graph itself does when one pixel changes by one grey level. A
plan gets a fusion report too, NAME.fusion.json: which kernels TensorRT made, how many in each
block, what is fused, what stayed float32 and why (`-v` prints it, `show` draws it).

With --remote the graph travels to a board with the agent, is built and checked there against what
it says here, and the engine comes back. The board needs Python 3.10, numpy and its runtime. A
connection that drops is resumed; the folder there is removed at the end.

  fpet-export build out/model.onnx
  fpet-export build out/model.onnx --target rtx --sm 8.6,8.9
  fpet-export build out/model.fp16.onnx --target tensorrt --remote orin1
  # every graph of a folder that `tasks` wrote, for its target:
  fpet-export build out
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument(
        "onnx", type=Path, metavar="ONNX", help="an exported graph, or a folder of tasks"
    )
    parser.add_argument(
        "--target", help="where it will run (default: what the graph was exported for)"
    )
    arguments.add_output(parser, what="file to write (default: beside the graph)")
    parser.add_argument(
        "--sm", type=arguments.names, metavar="8.6,8.9", help="GPU generations to build for (rtx)"
    )
    parser.add_argument(
        "--optimization-level",
        type=int,
        choices=range(6),
        help="effort of TensorRT or PyTorch, 0 to 5",
    )
    parser.add_argument(
        "--workspace-mb",
        type=arguments.positive,
        help="limit of scratch memory (default: the target's; see `targets NAME`)",
    )
    parser.add_argument(
        "--batch",
        type=arguments.batches,
        metavar="MIN:OPT:MAX",
        help="of a graph with a dynamic batch: the range, and what to tune for (default: all that "
        "it was exported for, tuned for the largest)",
    )
    parser.add_argument(
        "--timing-cache",
        type=Path,
        metavar="FILE",
        help="timings of kernels to start from and to keep, for a quicker build next time",
    )
    parser.add_argument(
        "--print-trtexec",
        action="store_true",
        help="print the line for NVIDIA's own tool and build nothing",
    )
    arguments.add_failed(parser)
    arguments.add_form(parser)
    remote_arguments.add_arguments(parser)


def run(options: argparse.Namespace, reporter: Reporter) -> Outcome:
    """Build, then compare with the graph where the engine can run."""
    request = made(build.BuildRequest, vars(options))
    if request.onnx.is_dir():
        if options.print_trtexec:
            lines = task_builds.trtexec_lines(request)
            return Outcome(document={"trtexec": lines}, result="\n".join(lines))
        tasks = task_builds.build(request, reporter)
        return Outcome(
            document=tasks.to_json(), result="\n".join(map(str, tasks.engines)), next=tasks.next
        )
    if options.print_trtexec:
        line = build.trtexec_line(request)
        return Outcome(document={"trtexec": line}, result=line)
    built = build.build(request, reporter)
    return Outcome(document=built.to_json(), result=str(built.engine), next=built.next)
