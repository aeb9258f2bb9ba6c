"""`fpet-export sweep RUN… -o DIR`: a grid of points, computed by many workers."""

from __future__ import annotations

import argparse

from engines import precisions
from fpet_export.cli import arguments, quantize_arguments
from fpet_export.cli.verbs import Outcome
from fpet_export.reporter import Reporter
from fpet_export.requests import made
from fpet_export.sweep import sweep

DESCRIPTION = """\
Compute every run with every merge, batch, precision and target, and say which points no other
beats: in latency and accuracy, or without labels in the share of images that keep their class.

Points share their work: one export serves all precisions, and all targets that want the same form.
Exports, quantizations and engines are made side by side by the processes of a dask cluster, one on
this machine (--workers) or any other by its address (--scheduler). Engines are measured when that
is done, one at a time on a machine that has nothing else to do.

Every finished step stays in DIR. The same command goes on after Ctrl-C, a killed worker or a crash
and does only what is missing; more points may be asked for. A result that was computed from other
files or settings is said, and computed again with --force only. A point that fails is a result with
its error: the sweep ends with the exit code of the first.

Leaves DIR/points/NAME.json, DIR/sweep.csv, DIR/sweep.md, DIR/report.html with the pictures, and
in DIR/work the graphs, engines and latencies.

  fpet-export sweep RUN --backbone B --data val/ --precisions fp32,int8 -o out --workers 2
  fpet-export sweep RUN --backbone B --targets cpu,openvino --merges none,fpet@4,fpet@6 -o out
  fpet-export sweep a=RUN b=RUN2 --backbone B --data a=A/ --data b=B/ --batches 1,8 -o out
  fpet-export sweep RUN --backbone B -o /net/out --scheduler tcp://node1:8786
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument(
        "runs", nargs="+", metavar="[NAME=]RUN", help="runs, as `export` takes them, and names"
    )
    arguments.add_output(
        parser,
        what="folder of the sweep",
        required=True,
        force="compute again what was computed from other files or settings",
    )
    group = parser.add_argument_group("the grid")
    group.add_argument(
        "--targets",
        type=arguments.names,
        default=("cpu",),
        metavar="T,T",
        help="where the engines run, which must be here or on the workers (default: cpu)",
    )
    group.add_argument(
        "--precisions",
        type=arguments.names,
        default=(precisions.FP32,),
        metavar="P,P",
        help=f"of {', '.join(precisions.PRECISIONS)} (default: fp32)",
    )
    group.add_argument(
        "--batches",
        type=arguments.sizes,
        default=(1,),
        metavar="N,N",
        help="images per inference (default: 1)",
    )
    group.add_argument(
        "--merges",
        type=arguments.names,
        default=(),
        metavar="M,M",
        help="as --merge of `export` has them: none, fpet@6, … (default: as each run was trained)",
    )
    group = parser.add_argument_group("the workers")
    group.add_argument(
        "--workers",
        type=arguments.positive,
        metavar="N",
        help="processes on this machine (default: one a core, at most 4)",
    )
    group.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        help="of a dask scheduler, as tcp://HOST:8786; its workers need this toolkit, and DIR and "
        "the files under the same paths",
    )
    group.add_argument(
        "--retry-failed", action="store_true", help="compute what failed the last time once more"
    )
    group = parser.add_argument_group("the measurement")
    group.add_argument(
        "--bench",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="measure latencies; else points are compared by their multiply-adds",
    )
    group.add_argument(
        "--against",
        choices=("plain",),
        help="measure each engine beside the same network without merging, in the same rounds",
    )
    arguments.add_duration(group)
    arguments.add_run(parser, positional=False)
    quantize_arguments.add_arguments(parser)
    arguments.add_data(parser, by="run")


def run(options: argparse.Namespace, reporter: Reporter) -> Outcome:
    """Compute what is missing, print the table, and keep it."""
    found = sweep.sweep(made(sweep.SweepRequest, vars(options)), reporter)
    return Outcome(
        document=found.to_json(),
        result=str(found.page),
        next=found.next,
        exit_code=found.exit_code,
    )
