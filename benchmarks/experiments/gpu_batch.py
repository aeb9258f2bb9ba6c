"""One batch size on a GPU: every way of every subject, held against float32 and timed together."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np

from benchmarks.agreement import Agreement, agreement
from benchmarks.comparison import bench, fastest, rebase
from benchmarks.conditions.failures import as_engine_error
from benchmarks.contenders import Opened
from benchmarks.experiments import gpu_peers
from benchmarks.experiments.subjects import IMAGE, Subject
from benchmarks.feeds import synthetic_feeds
from benchmarks.latency import Schedule
from benchmarks.measurement import Absent, Measurement
from benchmarks.paired_statistics import Comparison, compare
from benchmarks.peers import PeerSource, load_peer
from benchmarks.report.table import format_table
from engines.contract import Array
from engines.errors import FpetError

_REFERENCE = "eager"  # in float32 it is what each subject's contenders are compared with
_DTYPE = "float16"
_GRAPH_TARGETS = {
    "aoti": "torch-cuda",
    "ort_as_written": "cuda",
    "ort_cuda": "cuda",
    "trt": "tensorrt",
    "trt_rtx": "rtx",
}
"""Ways that read a graph, and for what it is written."""
Bench = Callable[..., Measurement]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pair:
    """The frozen network against the plain one, both run in the same way."""

    way: str
    against: Comparison


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchCheck:
    """Everything about one batch size.

    Attributes:
        batch: Images of one run.
        measurement: All contenders in the same rounds; None when none could run.
        parity: Each contender against its subject's float32 run, by name.
        pairs: Frozen against plain, way by way.
        failed: What could not take part, with the reason.
    """

    batch: int
    measurement: Measurement | None
    parity: dict[str, Agreement]
    pairs: tuple[Pair, ...]
    failed: tuple[Absent, ...]


def check_batch(
    batch: int,
    *,
    ways: Sequence[str],
    subjects: Sequence[Subject],
    folder: Path,
    schedule: Schedule,
    peers: ModuleType = gpu_peers,
    measure: Bench = bench,
    say: Callable[[str], None] = lambda line: None,
) -> BatchCheck:
    """Open every way of every subject, compare, time them together.

    Args:
        batch: Images of one run.
        ways: Files of the folder `peers`.
        subjects: What is run.
        folder: For graphs and plans.
        schedule: How long to measure.
        peers: A registry folder.
        measure: `benchmarks.bench`, or a stand-in.
        say: Told what goes on.
    """
    failed: list[Absent] = []
    parity: dict[str, Agreement] = {}
    measurement: Measurement | None = None
    with contextlib.ExitStack() as stack:
        opened: list[Opened] = []
        for subject in subjects:
            reference = _reference(subject, batch, peers, failed)
            for way in ways:
                if not suits(subject, way):
                    continue
                name = f"{subject.name} {way}"
                say(f"batch {batch}: {name}")
                try:
                    source = source_of(subject, way, batch, folder)
                    peer = load_peer(peers, way)
                    engine = stack.enter_context(peer.open_peer(source, threads=1))
                    feeds = synthetic_feeds(engine.inputs, batch=batch, seed=0, name=name)
                    logits = engine.run(feeds)[engine.outputs[0].name]
                    if reference is not None:
                        parity[name] = agreement(
                            logits, reference, reference=f"{subject.name} float32", required=False
                        )
                except FpetError as error:
                    failed.append(_absent(name, error))
                else:
                    opened.append(Opened(name=name, engine=engine))
        if opened:
            try:
                with as_engine_error(f"timing at batch {batch}"):
                    measurement = measure(
                        opened, batch=batch, schedule=schedule, strict=False, threads=1
                    )
            except FpetError as error:
                failed.append(_absent("timing", error))
    return BatchCheck(
        batch=batch,
        measurement=_against_fastest(measurement) if measurement else None,
        parity=parity,
        pairs=_pairs(measurement, ways) if measurement else (),
        failed=tuple(failed),
    )


def format_check(check: BatchCheck) -> str:
    """Return one batch as text: the table, the pairs, parity, what failed."""
    lines = [f"== batch {check.batch}"]
    if check.measurement is not None:
        lines += [format_table(check.measurement), ""]
    lines += [f"{pair.way}: frozen is {pair.against.sentence()}" for pair in check.pairs]
    for name, entry in check.parity.items():
        lines.append(
            f"{name:<28} relative error {entry.relative:.1e}, top-1 {entry.top1:.0%} of float32"
        )
    lines += [f"failed: {entry.name}: {entry.reason} ({entry.fix})" for entry in check.failed]
    return "\n".join(lines)


def suits(subject: Subject, way: str) -> bool:
    """Say whether a subject can be run in a way: a model of somebody else's has no graph."""
    return way not in _GRAPH_TARGETS or subject.onnx is not None


def source_of(subject: Subject, way: str, batch: int, folder: Path) -> PeerSource:
    """Return what a way reads, in half precision: a module of torch, or a graph."""
    if way in _GRAPH_TARGETS:
        assert subject.onnx is not None
        graph = subject.onnx(batch, _GRAPH_TARGETS[way], _DTYPE, folder)
        return PeerSource(onnx=graph, image=IMAGE)
    return PeerSource(module=lambda: subject.module(batch, _DTYPE), image=IMAGE, dtype=_DTYPE)


def _reference(
    subject: Subject, batch: int, peers: ModuleType, failed: list[Absent]
) -> Array | None:
    """Return the logits of a subject in float32, on the same pixels."""
    name = f"{subject.name} float32"
    source = PeerSource(module=lambda: subject.module(batch, "float32"), image=IMAGE)
    try:
        with load_peer(peers, _REFERENCE).open_peer(source, threads=1) as engine:
            feeds = synthetic_feeds(engine.inputs, batch=batch, seed=0, name=name)
            return engine.run(feeds)[engine.outputs[0].name]
    except FpetError as error:
        failed.append(_absent(name, error))
        return None


def _absent(name: str, error: FpetError) -> Absent:
    return Absent(name=name, reason=error.what, fix=error.fix)


def _against_fastest(measurement: Measurement) -> Measurement:
    """Compare with the fastest contender that does not merge tokens."""
    others = [
        result.name for result in measurement.contenders if not result.name.startswith("frozen ")
    ]
    baseline = fastest(measurement, others)
    return rebase(measurement, baseline) if baseline else measurement


def _pairs(measurement: Measurement, ways: Sequence[str]) -> tuple[Pair, ...]:
    samples = {
        result.name: np.array(result.samples_ns, np.int64) for result in measurement.contenders
    }
    return tuple(
        Pair(
            way=way,
            against=compare(
                samples[f"frozen {way}"], samples[f"plain {way}"], baseline=f"plain {way}"
            ),
        )
        for way in ways
        if {f"frozen {way}", f"plain {way}"} <= set(samples)
    )
