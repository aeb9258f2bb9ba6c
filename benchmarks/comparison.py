"""Open contenders and peers, check that they agree, time them in pairs, judge the result."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from benchmarks.agreement import Agreement, check_agreement
from benchmarks.conditions.devices import runs_on_gpu
from benchmarks.conditions.environment import Environment, read_environment
from benchmarks.conditions.gpu_state import GpuUse, Listed, read_used_gpu
from benchmarks.conditions.gpu_validity import GpuMeter, check_gpu
from benchmarks.conditions.machine_validity import check_conditions
from benchmarks.conditions.validity import (
    Finding,
    MachineUse,
    OtherLoad,
    check,
    is_worth_repeating,
    machine_use,
    other_load,
    refuse_invalid,
)
from benchmarks.conditions.watched import Conditions
from benchmarks.conditions.watcher import MachineWatcher, Watcher
from benchmarks.contenders import (
    Opened,
    Source,
    common_batch,
    doubts_of,
    first_outputs,
    open_contenders,
)
from benchmarks.energy.evaluate import rebased
from benchmarks.energy.meter import EnergyMeter
from benchmarks.energy.result import ContenderEnergy
from benchmarks.feeds import synthetic_feeds
from benchmarks.latency import (
    Clock,
    Contender,
    Pause,
    Progress,
    Rounds,
    Schedule,
    measure_rounds,
)
from benchmarks.measurement import (
    ContenderResult,
    Measurement,
)
from benchmarks.paired_statistics import compare, percentile, summarise
from benchmarks.peers import PeerSource
from benchmarks.scenarios.alone import Candidate, run_alone
from benchmarks.scenarios.asked import Scenario
from benchmarks.scenarios.running import ScenarioResults
from engines.contract import DeviceClock, Engine, Feeds, OpenOptions
from engines.errors import (
    UsageError,
)
from engines.machine.processor import usable_cores

Again = Callable[[Sequence[Finding], int], None]
"""`again(findings, attempt)`: noise spoiled an attempt, and attempt number `attempt` begins."""
_DEVICE_RUNS = 100
_CLASSLESS = ("features", "tokens")
"""Names of outputs that are no logits; see `engines.manifest.Head`."""


def read_machine() -> MachineUse:
    """Read the machine's counters now."""
    return machine_use(wall_s=time.monotonic(), own_s=time.process_time())


def bench(
    contenders: Sequence[Source],
    *,
    against: Source | None = None,
    against_plain: bool = False,
    peers: Sequence[str] = (),
    peer_source: PeerSource | None = None,
    batch: int | None = None,
    threads: int | None = None,
    options: OpenOptions | None = None,
    feeds: Mapping[str, Feeds] | None = None,
    agree: Sequence[Sequence[str]] = (),
    agree_limit: float = 1e-3,
    schedule: Schedule | None = None,
    gemm_peak_macs_per_s: float | None = None,
    scenarios: Sequence[Scenario] = (),
    strict: bool = True,
    attempts: int = 1,
    again: Again | None = None,
    command: Sequence[str] = (),
    clock: Clock = time.perf_counter_ns,
    pause: Pause = time.sleep,
    machine: Callable[[], MachineUse] = read_machine,
    environment: Callable[[], Environment] = read_environment,
    read_gpu: Callable[[], Listed | None] = read_used_gpu,
    energy: EnergyMeter | None = None,
    watcher: Callable[[], Watcher] = MachineWatcher,
    progress: Progress | None = None,
) -> Measurement:
    """Measure engines against a baseline, all in the same rounds.

    Args:
        contenders: Artefacts to open, or engines that are open (and stay so).
        against: The baseline: another artefact or engine, or the name of a contender or of a
            peer. By default the first contender.
        against_plain: Whether that is the plain model, the same network without merging: then the
            measurement says whether merging pays, see `benchmarks.merge_verdict`.
        peers: Files of `benchmarks/peers` that join. One that is not installed or refuses the
            model is listed in `absent` with its reason.
        peer_source: The plain model; needed with `peers`.
        batch: Images of one run. By default what the engines fix, else 1.
        threads: CPU threads of every contender; by default the physical cores. Engines that the
            caller opened keep their own.
        options: How artefacts are opened; `threads` stands above.
        feeds: By contender's name; the others get the same synthetic images.
        agree: Groups of names whose outputs must agree. All peers form one without being named:
            they run one model.
        agree_limit: Largest difference within a group, relative to the largest logit.
        schedule: How long to measure.
        gemm_peak_macs_per_s: From `benchmarks.gemm_peak`, to say how near each
            contender comes.
        scenarios: What each contender is measured under alone, after the rounds.
        strict: Raise when the measurement is invalid; else the findings only mark it.
        attempts: How often to measure at most, until noise spoils nothing; the last one counts.
        again: Called before every further attempt.
        command: The command line to record.
        clock: Nanoseconds.
        pause: Waits between runs.
        machine: Reads the machine's counters before and after.
        environment: Reads what the measurement is taken on.
        read_gpu: Reads the GPU that engines run on, where one does.
        energy: How the energy of an image is measured, after the rounds; None does not.
        watcher: Watches the machine while the rounds run.
        progress: Called after every round; returning False stops like Ctrl-C.

    Raises:
        MeasurementError: The measurement is invalid, or outputs that must agree do not.
        InputError: An artefact cannot be opened with this batch size.
        UsageError: The request contradicts itself.
        MachineError: Energy is asked for, and no sensor here tells it.
    """
    schedule = schedule or Schedule()
    threads = threads or usable_cores()
    options = dataclasses.replace(options or OpenOptions(), threads=threads)
    host, watching = environment(), watcher()
    with contextlib.ExitStack() as stack:
        baseline, opened, absent = open_contenders(
            contenders, against, peers, peer_source, threads, options, stack
        )
        batch = common_batch(opened, batch)
        all_feeds = {
            entry.name: (feeds or {}).get(entry.name)
            or synthetic_feeds(
                entry.engine.inputs, batch=batch, seed=schedule.seed, name=entry.name
            )
            for entry in opened
        }
        opened, outputs, failed = first_outputs(opened, all_feeds, optional=set(peers) - {baseline})
        agreements = check_agreement(
            outputs,
            baseline=baseline,
            agree=[*agree, list(peers)],
            limit=agree_limit,
            classes=not any(entry.engine.outputs[0].name in _CLASSLESS for entry in opened),
        )
        timed = [
            Contender(name=entry.name, run_once=entry.engine.bind(all_feeds[entry.name]))
            for entry in opened
        ]
        runtimes = [entry.engine.describe() for entry in opened]
        is_gpu = any(map(runs_on_gpu, runtimes))
        if energy is not None:
            energy.require(runtimes)

        def attempt_once() -> _Attempt:
            meter = GpuMeter(read_gpu) if is_gpu else None
            with watching.attempt() as watch:
                before = machine()
                rounds = measure_rounds(
                    timed,
                    schedule=schedule,
                    clock=clock,
                    pause=pause,
                    progress=progress if meter is None else meter.watching(progress),
                )
                load = other_load(before, machine())
                use = None if meter is None else meter.use()  # before its clocks fall again
                rounds_s = rounds.duration_ns / 1e9
                conditions = watch.conditions(rounds_s=rounds_s)
            findings = check(rounds, baseline=baseline, load=load)
            findings += check_gpu(use, board=host.board) if is_gpu else ()
            findings += check_conditions(
                conditions, rounds_s=rounds_s, on_gpu=is_gpu, on_jetson=host.board is not None
            )
            return _Attempt(
                rounds=rounds, load=load, gpu=use, conditions=conditions, findings=findings
            )

        taken, attempt = _until_quiet(attempt_once, attempts, again)
        device = {
            entry.name: _device_p50_ns(entry.engine, all_feeds[entry.name]) for entry in opened
        }
        measured = energy and energy.measure(
            timed,
            runtimes,
            batch=batch,
            baseline=baseline,
            seed=schedule.seed,
            clock=clock,
            pause=pause,
            machine=machine,
            watcher=watching,
            on_jetson=host.board is not None,
            progress=progress,
        )
        alone = run_alone(
            scenarios,
            {
                entry.name: Candidate(
                    bind=functools.partial(_bound, entry, schedule.seed),
                    batches=entry.batches or (batch, batch),
                    path=entry.path,
                )
                for entry in opened
            },
            batch=batch,
            seconds=schedule.min_s,
            watcher=watching,
            machine=machine,
            options=options,
            on_gpu=is_gpu,
            on_jetson=host.board is not None,
            clock=clock,
            progress=progress,
        )
        results = _results(
            opened,
            taken.rounds,
            device,
            alone.results,
            baseline,
            batch,
            agreements,
            schedule.seed,
            gemm_peak_macs_per_s,
            measured.of if measured else {},
        )
    if strict:
        refuse_invalid(taken.findings)
    return Measurement(
        baseline=baseline,
        batch=batch,
        contenders=results,
        absent=(*absent, *failed),
        findings=(*taken.findings, *doubts_of(opened), *alone.findings),
        schedule=schedule,
        rounds=len(taken.rounds.latency_ns),
        warmup_rounds=taken.rounds.warmup_rounds,
        duration_ns=taken.rounds.duration_ns,
        other_load=taken.load,
        environment=host,
        gemm_peak_macs_per_s=gemm_peak_macs_per_s,
        attempts=attempt,
        command=tuple(command),
        plain=baseline if against_plain else None,
        gpu=taken.gpu,
        energy=measured.record if measured else None,
        conditions=taken.conditions,
        scenario_conditions=alone.conditions,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Attempt:
    """One measurement of all rounds, and what spoils it.

    Attributes:
        rounds: The latencies.
        load: What others used of the machine meanwhile.
        gpu: What the GPU did meanwhile; None without one.
        conditions: How the machine was set and what it did.
        findings: What is wrong.
    """

    rounds: Rounds
    load: OtherLoad
    gpu: GpuUse | None
    conditions: Conditions
    findings: tuple[Finding, ...]


def _until_quiet(
    attempt_once: Callable[[], _Attempt], attempts: int, again: Again | None
) -> tuple[_Attempt, int]:
    """Measure until noise spoils nothing, or for the last time; return how often, too."""
    for attempt in itertools.count(1):
        taken = attempt_once()
        rounds = len(taken.rounds.latency_ns)
        if attempt >= attempts or not is_worth_repeating(taken.findings, rounds=rounds):
            return taken, attempt
        if again is not None:
            again(taken.findings, attempt + 1)
    raise AssertionError("attempts never end by themselves")


def rebase(measurement: Measurement, baseline: str) -> Measurement:
    """Return the same samples compared with another of their contenders.

    Raises:
        UsageError: No contender has this name.
    """
    names = [result.name for result in measurement.contenders]
    if baseline not in names:
        raise UsageError(
            f"no contender is called {baseline!r}",
            where="baseline",
            fix=f"choose one of {', '.join(names)}",
        )
    reference = measurement.result(baseline)
    others = [result for result in measurement.contenders if result is not reference]
    energies = rebased(
        {one.name: one.energy for one in measurement.contenders if one.energy is not None},
        measurement.energy,
        baseline=baseline,
        seed=measurement.schedule.seed,
    )
    changed = [
        dataclasses.replace(
            result,
            against=None
            if result is reference
            else compare(
                np.array(result.samples_ns, np.int64),
                np.array(reference.samples_ns, np.int64),
                baseline=baseline,
                seed=measurement.schedule.seed,
            ),
            energy=energies.get(result.name),
        )
        for result in (reference, *others)
    ]
    return dataclasses.replace(measurement, baseline=baseline, contenders=tuple(changed))


def fastest(measurement: Measurement, names: Sequence[str]) -> str | None:
    """Return which of these contenders has the lowest median; None when none took part."""
    present = [result for result in measurement.contenders if result.name in names]
    return min(present, key=lambda result: result.latency.p50_ns).name if present else None


def _bound(entry: Opened, seed: int, batch: int) -> Callable[[], None]:
    """Return the call that runs a batch of synthetic images of this size."""
    engine = entry.engine
    return engine.bind(synthetic_feeds(engine.inputs, batch=batch, seed=seed, name=entry.name))


def _device_p50_ns(engine: Engine, feeds: Feeds) -> int | None:
    """Return the median by the device's own clock; None where it has none."""
    if not isinstance(engine, DeviceClock):
        return None
    return percentile(np.sort(engine.device_times_ns(feeds, runs=_DEVICE_RUNS)), 50)


def _results(
    opened: Sequence[Opened],
    rounds: Rounds,
    device_p50_ns: Mapping[str, int | None],
    alone: Mapping[str, ScenarioResults],
    baseline: str,
    batch: int,
    agreements: Mapping[str, Agreement],
    seed: int,
    peak: float | None,
    energies: Mapping[str, ContenderEnergy],
) -> tuple[ContenderResult, ...]:
    reference = rounds.of(baseline)
    results = []
    for entry in opened:
        samples = rounds.of(entry.name)
        latency = summarise(samples, batch=batch)
        results.append(
            ContenderResult(
                name=entry.name,
                latency=latency,
                against=None
                if entry.name == baseline
                else compare(samples, reference, baseline=baseline, seed=seed),
                agreement=agreements.get(entry.name),
                runtime=entry.engine.describe(),
                artefact=entry.artefact,
                samples_ns=tuple(int(sample) for sample in samples),
                peak_share=entry.macs * latency.images_per_s / peak
                if peak and entry.macs
                else None,
                device_p50_ns=device_p50_ns[entry.name],
                energy=energies.get(entry.name),
                scenarios=alone.get(entry.name),
            )
        )
    return tuple(results)
