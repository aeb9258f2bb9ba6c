"""`fpet-export bench X…`: paired, interleaved latency."""

from __future__ import annotations

import argparse
from pathlib import Path

from fpet_export.cli import arguments, remote_arguments
from fpet_export.cli.verbs import Outcome
from fpet_export.reporter import Reporter
from fpet_export.requests import made
from fpet_export.tasks import bench as task_bench
from fpet_export.workflow import bench

DESCRIPTION = """\
Run every contender once in each round, in a shuffled order, and compare each with the baseline by
the median of the paired ratios with a bootstrap interval. Where noise spoils a measurement it is
taken again, twice at most; one that stays noisy keeps its samples in the JSON, shows no ratio and
ends with exit code 9.

--against plain builds the same architecture without merging, with random weights (a latency does
not depend on them), for the same target and in the same half precision or float32. --peers adds
other runtimes on that plain model. The verdict then says whether merging pays on this device at
this batch; --batches 1,8,64 measures an artefact with a dynamic batch at each size, and says from
which batch it pays.

With --remote the artefacts travel to a board with the agent, and with --against plain the plain
graph, which is written here. There the graphs are built, the engines checked, and all of them
measured in the same rounds.

--power-mode and --clocks lock set a Jetson while it measures and restore it, whatever becomes of
this process. What the machine was set to and did is recorded: throttling, a changed power mode or
a watcher that died make the measurement invalid (docs/measuring.md).

--data SET also judges the answers of the artefacts that were timed: accuracy, the five best
classes, every class, and agreement with the checkpoint's float32 graph. Images are read one by
one; with -o an interrupted run goes on where it was.

--remote a,b,c measures on several boards at the same time; -o then names a folder for a JSON each,
--html a page with all of them, as `report` writes it.

In a folder of tasks every task is a contender (choose with --task A,B), and the time of a switch
between tasks is measured too.

  fpet-export bench out/model.cpu.onnx --against plain --peers openvino_plain,torch_eager
  fpet-export bench out/model.cuda.onnx --against plain --batches 1,8,64
  fpet-export bench out --task pets,cars
  fpet-export bench out/model.fp16.onnx out/model.int8.onnx --against plain --remote orin1
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument(
        "artefacts",
        type=Path,
        nargs="+",
        metavar="X",
        help="graphs or engines, or a folder of tasks",
    )
    arguments.add_tasks(parser)
    parser.add_argument(
        "--against", metavar="plain|X", help="the baseline (default: the first contender)"
    )
    parser.add_argument(
        "--plain", type=Path, metavar="GRAPH", help="the graph that --against plain builds "
        "(default: written here, which needs torch)",
    )  # fmt: skip
    parser.add_argument(
        "--batches", type=arguments.sizes, metavar="N,N", help="measure at each of these batch "
        "sizes (default: the one that the artefacts fix, or their smallest)",
    )  # fmt: skip
    parser.add_argument(
        "--peers", type=arguments.names, default=(), metavar="A,B|all", help="peers that join: "
        "ort_plain, openvino_plain, torch_eager, torch_compile",
    )  # fmt: skip
    arguments.add_duration(parser)
    arguments.add_setting(parser)
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the order of contenders and of the bootstrap"
    )
    parser.add_argument(
        "--scenario", type=arguments.names, default=(), metavar="S,S", help="also measure each "
        "contender alone: stream:30 (images a second that arrive on a clock), offline (images a "
        "second at the best batch), cold (first answer and memory of a new process), soak:10 "
        "(minutes without a pause)",
    )  # fmt: skip
    parser.add_argument(
        "--peak", action="store_true", help="also measure this CPU's GEMM peak, and the share of it"
    )
    arguments.add_energy(parser)
    group = arguments.add_judged(parser)
    group.add_argument(
        "--reference", type=Path, metavar="GRAPH", help="what classes are compared with (default: "
        "the float32 graph that the first artefact was made from, where it lies beside it)",
    )  # fmt: skip
    arguments.add_running(parser)
    arguments.add_failed(parser)
    parser.add_argument("--html", type=Path, help="also write one self-contained HTML page")
    parser.add_argument(
        "--badge", type=Path, metavar="SVG", help="also write the result in one line as a picture "
        "for a README",
    )  # fmt: skip
    arguments.add_output(parser, what="JSON to write (default: only printed)")
    limits = parser.add_argument_group("limits, for a CI (exit 8 where one is missed)")
    limits.add_argument(
        "--budget", type=arguments.names, default=(), metavar="Q=N,Q=N", help="the most that each "
        "X may take: p50, p90, p95, p99, energy, memory, as p99=12ms,energy=90mJ,memory=1.5GB",
    )  # fmt: skip
    limits.add_argument(
        "--baseline", type=Path, metavar="FILE", help="a measurement of before, from -o"
    )
    limits.add_argument(
        "--max-regress", type=arguments.percent, metavar="P%%", help="by how much a median may be "
        "slower than in --baseline",
    )  # fmt: skip
    remote_arguments.add_arguments(parser)


def run(options: argparse.Namespace, reporter: Reporter) -> Outcome:
    """Measure, print the table, and keep the evidence."""
    request = made(bench.BenchRequest, vars(options))
    has_tasks = any(path.is_dir() for path in request.artefacts)
    measured = (task_bench if has_tasks else bench).bench(request, reporter)
    return Outcome(
        document=measured.to_json(),
        result="\n".join(map(str, measured.written)) or measured.verdict,
    )
