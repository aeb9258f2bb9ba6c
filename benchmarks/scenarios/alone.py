"""Contenders under their scenarios, one after the other, while the machine is watched."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.conditions.machine_validity import check_conditions
from benchmarks.conditions.validity import Finding, MachineUse, foreign_load, other_load
from benchmarks.conditions.watched import Conditions
from benchmarks.conditions.watcher import Watcher
from benchmarks.latency import Clock, Progress
from benchmarks.scenarios.asked import Scenario
from benchmarks.scenarios.cold import run_cold
from benchmarks.scenarios.running import ScenarioResults, run_scenarios
from benchmarks.scenarios.soak import check_soak
from engines.contract import OpenOptions

_NS = 1_000_000_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidate:
    """A contender as scenarios see it.

    Attributes:
        bind: Returns the call that runs a batch of this size.
        batches: Smallest and largest batch that it takes.
        path: Its file; None of an engine that the caller opened, and of a peer.
    """

    bind: Callable[[int], Callable[[], None]]
    batches: tuple[int, int]
    path: Path | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Alone:
    """What came out, by contender, and under which conditions; None and () without scenarios."""

    results: Mapping[str, ScenarioResults] = dataclasses.field(default_factory=dict)
    conditions: Conditions | None = None
    findings: tuple[Finding, ...] = ()


def run_alone(
    asked: Sequence[Scenario],
    candidates: Mapping[str, Candidate],
    *,
    batch: int,
    seconds: float,
    watcher: Watcher,
    machine: Callable[[], MachineUse],
    options: OpenOptions,
    on_gpu: bool,
    on_jetson: bool,
    clock: Clock = time.perf_counter_ns,
    progress: Progress | None = None,
) -> Alone:
    """Run every scenario of every contender.

    What spoils them makes the measurement doubtful and not invalid: its rounds are over by then,
    and a soak is there to show that a device slows down.

    Args:
        asked: The scenarios.
        candidates: The contenders by name.
        batch: Images of one run of a stream and of a soak.
        seconds: How long a stream lasts at least, and each batch of "offline".
        watcher: Watches the machine.
        machine: Reads its counters.
        options: How artefacts are opened, for processes of their own.
        on_gpu: Whether a contender runs on a GPU.
        on_jetson: Whether that is a Jetson's.
        clock: Nanoseconds.
        progress: Called after each window of a soak; returning False stops like Ctrl-C.
    """
    if not asked:
        return Alone()
    with watcher.attempt() as watch:
        before, start = machine(), clock()
        results = {
            name: run_scenarios(
                asked,
                candidate.bind,
                batch=batch,
                batches=candidate.batches,
                seconds=seconds,
                clock=clock,
                progress=progress,
            )
            for name, candidate in candidates.items()
        }
        load, lasted_s = other_load(before, machine()), (clock() - start) / _NS
        conditions = watch.conditions(rounds_s=lasted_s)
    if any(one.kind == "cold" for one in asked):  # processes of their own count as others' load
        results = {
            name: dataclasses.replace(
                results[name], cold=run_cold(candidate.path, batch=batch, options=options)
            )
            if candidate.path is not None
            else results[name]
            for name, candidate in candidates.items()
        }
    spoiled = (
        *foreign_load(load),
        *check_conditions(conditions, rounds_s=lasted_s, on_gpu=on_gpu, on_jetson=on_jetson),
    )
    slower = (
        finding
        for name, result in results.items()
        if result.soak is not None
        for finding in check_soak(name, result.soak)
    )
    return Alone(
        results=results,
        conditions=conditions,
        findings=(*(_in_scenarios(finding) for finding in spoiled), *slower),
    )


def _in_scenarios(finding: Finding) -> Finding:
    what = f"while the scenarios ran: {finding.what}"
    return dataclasses.replace(finding, severity="doubtful", what=what)
