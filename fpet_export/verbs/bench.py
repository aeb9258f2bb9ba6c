"""`fpet-export bench X…`: paired, interleaved latency."""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from pathlib import Path

from engines import storage
from engines.errors import MeasurementError
from fpet_export.console import Console
from fpet_export.verbs import Outcome, _arguments, _bench

HELP = "measure latency, paired and interleaved, and say whether it is really faster"
DESCRIPTION = """\
Run every contender once in each round, in a shuffled order, and compare each with the baseline
by the median of the paired ratios with a bootstrap interval.

--against plain builds the same architecture without merging, with random weights (a latency does
not depend on them), for the same target. --peers adds other runtimes on that plain model.

  fpet-export bench out/model.cpu.onnx --against plain --peers openvino_plain,torch_eager
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("artefacts", type=Path, nargs="+", metavar="X", help="graphs or engines")
    parser.add_argument(
        "--against", metavar="plain|X", help="the baseline (default: the first contender)"
    )
    parser.add_argument(
        "--peers", type=_arguments.names, default=(), metavar="A,B|all", help="peers that join: "
        "ort_plain, openvino_plain, torch_eager, torch_compile",
    )  # fmt: skip
    parser.add_argument(
        "--threads", type=_arguments.positive, help="CPU threads (default: physical cores)"
    )
    parser.add_argument(
        "--rounds", type=_arguments.positive, default=40, help="rounds at least (default: 40)"
    )
    parser.add_argument("--seconds", type=float, default=3.0, help="seconds at least (default: 3)")
    parser.add_argument("--seed", type=int, default=0, help="of the order and the bootstrap")
    parser.add_argument(
        "--peak", action="store_true", help="also measure this CPU's GEMM peak, and the share of it"
    )
    parser.add_argument(
        "--allow-noise", action="store_true", help="print a noisy measurement, marked, not exit 9"
    )
    parser.add_argument("--html", type=Path, help="also write one self-contained HTML page")
    _arguments.add_output(parser, what="JSON to write (default: only printed)")


def run(options: argparse.Namespace, console: Console) -> Outcome:
    """Measure, print the table, and keep the evidence."""
    for path in (options.out, options.html):
        if path is not None:
            storage.refuse_overwrite(path, force=options.force)
    _bench.check_peers(options.peers)
    from benchmarks import format_table, write_measurement

    with tempfile.TemporaryDirectory(prefix="fpet-bench-") as folder:
        measurement = _bench.measure(
            options.artefacts,
            against=options.against,
            peers=options.peers,
            settings=_bench.Settings(
                threads=options.threads,
                rounds=options.rounds,
                seconds=options.seconds,
                seed=options.seed,
                peak=options.peak,
            ),
            folder=Path(folder),
            command=options.command,
            console=console,
        )
    console.line()
    console.line(format_table(measurement))
    console.line()
    if options.out is not None:
        write_measurement(options.out, measurement, force=options.force)
    if options.html is not None:
        from benchmarks.report import Report, write_report

        title = " and ".join(path.name for path in options.artefacts)
        page = Report(
            title=f"Latency of {title}",
            warnings=tuple(finding.what for finding in measurement.findings),
            measurements=(measurement,),
        )
        write_report(options.html, page, force=options.force)
    if not measurement.valid and not options.allow_noise:
        bad = [f.what for f in measurement.findings if f.severity == "invalid"]
        raise MeasurementError(
            f"the measurement is not valid: {'; '.join(bad)}",
            where="bench",
            fix="stop other work on this machine and measure again, or add --allow-noise",
        )
    written = [str(path) for path in (options.out, options.html) if path is not None]
    return Outcome(
        document=dataclasses.asdict(measurement),
        result="\n".join(written) or _bench.verdict(measurement),
    )
