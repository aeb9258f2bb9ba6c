"""`fpet-export bench X…`: paired, interleaved latency."""

from __future__ import annotations

import argparse
import contextlib
import shlex
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from engines import storage
from engines.errors import MeasurementError, UsageError
from fpet_export.board import remote
from fpet_export.cli import arguments
from fpet_export.cli.terminal import terminal_width
from fpet_export.cli.verbs import Outcome
from fpet_export.reporter import Reporter
from fpet_export.tasks import measure as _task_bench
from fpet_export.workflow import batches as _batches
from fpet_export.workflow import measure as _bench
from fpet_export.workflow import plain as _plain
from fpet_export.workflow import usable

if TYPE_CHECKING:
    from benchmarks import Measurement

GROUP = "judge"
HELP = "measure latency, paired and interleaved, and say whether it is really faster"
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
        "--batches", type=_batches.sizes, metavar="N,N", help="measure at each of these batch "
        "sizes (default: the one that the artefacts fix, or their smallest)",
    )  # fmt: skip
    parser.add_argument(
        "--peers", type=arguments.names, default=(), metavar="A,B|all", help="peers that join: "
        "ort_plain, openvino_plain, torch_eager, torch_compile",
    )  # fmt: skip
    parser.add_argument(
        "--threads", type=arguments.positive, help="CPU threads (default: physical cores)"
    )
    parser.add_argument(
        "--rounds", type=arguments.positive, default=40, help="rounds at least (default: 40)"
    )
    parser.add_argument(
        "--seconds", type=arguments.amount, default=3.0, help="seconds at least (default: 3)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the order of contenders and of the bootstrap"
    )
    parser.add_argument(
        "--peak", action="store_true", help="also measure this CPU's GEMM peak, and the share of it"
    )
    parser.add_argument(
        "--allow-noise",
        action="store_true",
        help="keep a noisy measurement, marked as such, instead of exit code 9",
    )
    arguments.add_running(parser)
    arguments.add_failed(parser)
    parser.add_argument("--html", type=Path, help="also write one self-contained HTML page")
    arguments.add_output(parser, what="JSON to write (default: only printed)")
    remote.add_arguments(parser)


def run(options: argparse.Namespace, reporter: Reporter) -> Outcome:
    """Measure, print the table, and keep the evidence."""
    for path in (options.out, options.html):
        if path is not None:
            storage.refuse_overwrite(path, force=options.force)
    _bench.check_peers(options.peers)
    _refuse_contradictions(options)
    _bench.refuse_few_rounds(options)
    _refuse_twice(options.artefacts)
    if options.remote is None and not any(path.is_dir() for path in options.artefacts):
        _bench.refuse_unknown_baseline(options.against, options.artefacts, options.peers)
    if options.batches is not None:
        _batches.refuse(options)
        return _run_batches(options, reporter)
    from benchmarks import format_table, write_measurement
    from benchmarks.measurement import to_document

    measure = _here if options.remote is None else _there
    if any(path.is_dir() for path in options.artefacts):
        measure = _task_bench.measure
    else:
        arguments.refuse_tasks(options.artefacts[0], options.task)
    measurement = measure(options, reporter)
    if options.remote is None:  # the agent's own table was heard already
        reporter.line()
        reporter.line(format_table(measurement, width=terminal_width()))
        reporter.line()
    if options.out is not None:
        write_measurement(options.out, measurement, force=options.force)
    if options.html is not None:
        from benchmarks.report.page import report_of, write_report

        page = report_of(measurement, title=_title(options), again=shlex.join(options.command))
        write_report(options.html, page, force=options.force)
    _refuse_noise([measurement], options)
    written = [str(path) for path in (options.out, options.html) if path is not None]
    if written:
        _batches.say([measurement], reporter)
    how = _batches.hint(measurement, options.artefacts)
    if how:
        reporter.line(f"From which batch merging pays: {how}")
    return Outcome(
        document=to_document(measurement),
        result="\n".join(written) or _bench.verdict(measurement),
    )


def _run_batches(options: argparse.Namespace, reporter: Reporter) -> Outcome:
    """Do the same at several batch sizes."""
    from benchmarks import batches

    _require_usable(options, reporter)
    with tempfile.TemporaryDirectory(prefix="fpet-bench-") as folder:
        measurements = _batches.measure(options, Path(folder), reporter)
    reporter.line()
    reporter.line(batches.format_batches(measurements, width=terminal_width()))
    reporter.line()
    if options.out is not None:
        batches.write_batches(options.out, measurements, force=options.force)
    if options.html is not None:
        from benchmarks.report.page import write_report

        again = shlex.join(options.command)
        page = batches.report_of_batches(measurements, title=_title(options), again=again)
        write_report(options.html, page, force=options.force)
    _refuse_noise(measurements, options)
    written = [str(path) for path in (options.out, options.html) if path is not None]
    if written:
        _batches.say(measurements, reporter)
    said = _bench.merging(measurements) or [batches.summary(measurements)]
    return Outcome(
        document=batches.batches_document(measurements),
        result="\n".join(written or said),
    )


def _title(options: argparse.Namespace) -> str:
    names = [path.name for path in options.artefacts]
    alike = len(set(names)) < len(names)
    return f"Latency of {' and '.join(map(str, options.artefacts) if alike else names)}"


def _refuse_noise(measurements: Sequence[Measurement], options: argparse.Namespace) -> None:
    """Refuse measurements that noise has spoiled, unless that is wanted; they are written by now.

    Raises:
        MeasurementError: There is one.
    """
    spoiled = [one for one in measurements if not one.valid]
    if not spoiled or options.allow_noise:
        return
    at = f" at batch {spoiled[0].batch}" if len(measurements) > 1 else ""
    raise MeasurementError(
        f"the measurement{at} is not valid: {_bench.reasons(spoiled[0].spoiled_by)}",
        where="bench",
        fix=f"{spoiled[0].spoiled_by[0].fix}; then: {shlex.join(options.command)} "
        "(or add --allow-noise)",
    )


def _require_usable(options: argparse.Namespace, reporter: Reporter) -> None:
    against = [] if options.against in (None, _plain.PLAIN) else [Path(options.against)]
    plain = [] if options.plain is None else [options.plain]
    for path in (*options.artefacts, *against, *plain):
        usable.require_file(path, options, reporter)


def _here(options: argparse.Namespace, reporter: Reporter) -> Measurement:
    _require_usable(options, reporter)
    with tempfile.TemporaryDirectory(prefix="fpet-bench-") as folder:
        return _bench.measure(
            options.artefacts,
            against=options.against,
            peers=options.peers,
            settings=_bench.Settings.of(options),
            folder=Path(folder),
            command=options.command,
            reporter=reporter,
            plain=options.plain,
        )


def _there(options: argparse.Namespace, reporter: Reporter) -> Measurement:
    """Build graphs on another machine, check their engines, and measure all in one run."""
    from fpet_export.board import packing, session

    items = [packing.checked(path, None, options, reporter) for path in options.artefacts]
    against = options.against
    if against not in (None, _plain.PLAIN):
        against = packing.checked(Path(against), None, options, reporter)
        items += [] if against in items else [against]
    remote.require_reachable(options)
    words = session.measuring_words(options)
    with contextlib.ExitStack() as stack:
        plain = options.plain
        if against == _plain.PLAIN and plain is None:
            plain = stack.enter_context(packing.plain_of(items[0], reporter))
        board = stack.enter_context(remote.unpacked_there(items, options, reporter, plain=plain))
        return board.trial(words, against=against).measurement


def _refuse_twice(artefacts: Sequence[Path]) -> None:
    """Refuse a file beside itself; tasks of one folder are told by their own verb."""
    seen: set[Path] = set()
    for path in artefacts:
        if path.is_file() and path.resolve() in seen:
            raise UsageError(
                f"{path} was given twice",
                where="bench",
                fix="name each file once; one artefact alone is measured, too",
            )
        seen.add(path.resolve())


def _refuse_contradictions(options: argparse.Namespace) -> None:
    """Refuse a plain graph that nothing is measured against, and what a board cannot run."""
    if options.plain is not None and options.against != _plain.PLAIN:
        raise UsageError(
            "the plain graph is there to be measured against",
            where="--plain",
            fix="add --against plain",
        )
    remote.refuse_peers(options)
