"""Whether a measurement says the same again, notices a busy core, and adds little of its own.

A ViT-S/16 with random weights, merged and plain, on ONNX Runtime's CPU provider:

* ten measurements beside a neighbour that works a twelfth of the time: whether each interval of
  merged / plain covers the median of the ten ratios;
* five beside one that keeps a core busy: whether each is called invalid;
* the harness around a call of about a millisecond, beside a bare loop around the same call, in
  turns.

`python -m benchmarks.experiments.repeatability -o benchmarks/results/repeatability.json`
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.comparison import bench
from benchmarks.conditions.environment import read_environment
from benchmarks.latency import Contender, Schedule, measure_rounds
from benchmarks.measurement_file import to_text
from engines import registry, storage
from engines.contract import BuildOptions
from engines.engine import build

SCHEMA = 1
_RUN = "random:vit_small_patch16_224:0"
_NEIGHBOUR = """
import sys, time
busy, idle = float(sys.argv[1]), float(sys.argv[2])
while True:
    end = time.monotonic() + busy
    while time.monotonic() < end:
        pass
    time.sleep(idle)
"""
_LIGHT, _HEAVY = (0.01, 0.11), (1.0, 0.0)
"""Seconds of work and of rest of the neighbour."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and write the JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.experiments.repeatability",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-o", "--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--run", default=_RUN, help="the network")
    parser.add_argument("--runs", type=int, default=10, help="measurements under light load")
    parser.add_argument("--loaded", type=int, default=5, help="measurements beside a busy core")
    parser.add_argument("--rounds", type=int, default=40, help="rounds of a measurement")
    parser.add_argument("--force", action="store_true", help="replace the JSON file")
    options = parser.parse_args(arguments)
    storage.refuse_overwrite(options.output, force=options.force)
    with tempfile.TemporaryDirectory(prefix="fpet-repeat-") as folder:
        engines = _engines(options.run, Path(folder))
        with neighbour(*_LIGHT):
            light = [_ratio(engines, options.rounds) for _ in range(options.runs)]
        with neighbour(*_HEAVY):
            heavy = [_ratio(engines, options.rounds) for _ in range(options.loaded)]
    middle = statistics.median(one["ratio"] for one in light)
    document = {
        "schema": SCHEMA,
        "kind": "repeatability",
        "run": options.run,
        "environment": dataclasses.asdict(read_environment()),
        "light": light,
        "median": middle,
        "covered": sum(one["low"] <= middle <= one["high"] for one in light),
        "loaded": heavy,
        "flagged": sum(not one["valid"] for one in heavy),
        "harness": harness_overhead(),
    }
    storage.write_text(options.output, to_text(document))
    sys.stdout.write(in_words(document) + "\n")
    return 0


def in_words(document: dict[str, Any]) -> str:
    """Return what came out."""
    ratios = ", ".join(f"{one['ratio']:.3f}" for one in document["light"])
    return (
        f"ratios {ratios}; {document['covered']} of {len(document['light'])} intervals cover the "
        f"median {document['median']:.3f}\n"
        f"beside a busy core {document['flagged']} of {len(document['loaded'])} were invalid\n"
        f"harness over a bare loop: {document['harness']['ratio']:.4f}"
    )


@contextlib.contextmanager
def neighbour(busy_s: float, idle_s: float) -> Iterator[None]:
    """Keep a process beside us that works and rests in turns."""
    command = [sys.executable, "-c", _NEIGHBOUR, str(busy_s), str(idle_s)]
    with subprocess.Popen(command) as process:
        try:
            yield
        finally:
            process.kill()


def harness_overhead(*, samples: int = 2000, work_ms: float = 1.0) -> dict[str, float]:
    """Time a call of about a millisecond by the harness and by a bare loop, in turns.

    Args:
        samples: Calls of each.
        work_ms: What one call takes, about.

    Returns:
        The medians in microseconds, and the ratio of harness to loop.
    """
    call = _work(work_ms)
    parts = 20
    schedule = Schedule(
        min_rounds=samples // parts,
        min_s=0,
        max_rounds=samples // parts,
        warmup_rounds=6,
        settle_s=0,
    )
    harness: list[int] = []
    loop: list[int] = []
    for _ in range(parts):
        contenders = [Contender(name="work", run_once=call)]
        harness += measure_rounds(contenders, schedule=schedule).latency_ns[:, 0].tolist()
        for _ in range(samples // parts):
            start = time.perf_counter_ns()
            call()
            loop.append(time.perf_counter_ns() - start)
    medians = statistics.median(harness), statistics.median(loop)
    return {
        "harness_us": medians[0] / 1e3,
        "loop_us": medians[1] / 1e3,
        "ratio": medians[0] / medians[1],
    }


def _work(milliseconds: float) -> Callable[[], None]:
    """Return a call that takes about so long, on one core and in the caches."""
    values = np.linspace(0, 1, 4096)

    def call(count: int) -> None:
        for _ in range(count):
            np.sqrt(values, out=values)

    start = time.perf_counter_ns()
    call(1000)
    each_ms = (time.perf_counter_ns() - start) / 1e9
    count = max(round(milliseconds / each_ms), 1)
    return lambda: call(count)


def _engines(run: str, folder: Path) -> tuple[Path, Path]:
    """Export and build the merged and the plain network."""
    plain = registry.import_or_explain("fpet_export").load(run, method="lora", merge_block="none")
    merged = plain.merged(f"fpet@{plain.model.spec.depth // 2}")
    found = []
    for name, network in (("merged", merged), ("plain", plain)):
        graph = network.fold().freeze(target="cpu").to_onnx(folder / f"{name}.onnx")
        found.append(build(graph, target="cpu", options=BuildOptions(any_form=True)))
    return found[0], found[1]


def _ratio(engines: tuple[Path, Path], rounds: int) -> dict[str, Any]:
    merged, plain = engines
    measured = bench(
        [merged], against=plain, schedule=Schedule(min_rounds=rounds), strict=False, attempts=1
    )
    against = next(one.against for one in measured.contenders if one.against is not None)
    return {
        "ratio": against.ratio,
        "low": against.low,
        "high": against.high,
        "valid": measured.valid,
        "findings": [finding.what for finding in measured.findings],
    }


if __name__ == "__main__":
    sys.exit(main())
