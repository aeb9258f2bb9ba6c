"""Measurements made of numbers, for tests of what is done with them."""

from __future__ import annotations

import dataclasses
import datetime as dt
from pathlib import Path

import numpy as np

from benchmarks.conditions.environment import Environment, read_environment
from benchmarks.conditions.gpu_state import Gpu, GpuState, GpuUse
from benchmarks.conditions.validity import Finding, OtherLoad
from benchmarks.conditions.watched import Conditions, Watch
from benchmarks.latency import Schedule
from benchmarks.measurement import Answers, Artefact, ContenderResult, Measurement
from benchmarks.network import Network
from benchmarks.paired_statistics import compare, summarise
from engines.machine.snapshot import Snapshot

VIT_B = Network(
    width=768, depth=12, heads=12, hidden=3072, patch=(16, 16), grid=(14, 14), classes=1000,
    tokens_in=197, tokens=(197,) * 12, merged_blocks=(), merge="none", last_tokens=197,
)  # fmt: skip
MERGED = dataclasses.replace(
    VIT_B, tokens=(197,) * 6 + (99,) * 6, merged_blocks=(6,), merge="fpet@6", last_tokens=99
)
ORIN = "NVIDIA Jetson Orin Nano Developer Kit"
NOISE = Finding(severity="invalid", what="others used 50%", fix="close them")
_QUIET = OtherLoad(foreign=0.0, steal=0.0)
_STATE = GpuState(
    sm_mhz=1980, sm_max_mhz=1980, memory_mhz=3201, memory_max_mhz=3201, power_w=300.0,
    temperature_c=40, reasons=0,
)  # fmt: skip


def environment(*, board: str | None = None) -> Environment:
    read = read_environment(
        root=Path("/nonexistent"), now=dt.datetime(2026, 1, 2, tzinfo=dt.timezone.utc)
    )
    return dataclasses.replace(
        read, cpu="A CPU of a test", usable_processors=2, board=board, gpus=(), packages={},
        commit=None,
    )  # fmt: skip


def conditions(before: str, after: str | None = None) -> Conditions:
    return Conditions(
        before=Snapshot(power_mode=before),
        after=Snapshot(power_mode=after or before),
        watch=Watch(interval_s=0.1),
    )


def artefact(
    network: Network = MERGED,
    *,
    target: str = "jetson-orin-nano-8gb@jp6.2",
    precision: str = "fp16",
    agreement: float | None = 0.998,
) -> Artefact:
    answers = None
    if agreement is not None:
        answers = Answers(
            agreement=agreement, images=500, on="500 images", of="adapted model in float64"
        )
    return Artefact(
        file="model.plan", sha256="0" * 64, precision=precision, weights="trained", target=target,
        merges=network.merges, network=network, answers=answers, check="passed",
    )  # fmt: skip


def measurement(
    plain_ms: float = 5.0,
    merged_ms: float = 4.0,
    *,
    batch: int = 1,
    board: str | None = ORIN,
    gpu: str | None = None,
    target: str = "jetson-orin-nano-8gb@jp6.2",
    precision: str = "fp16",
    agreement: float | None = 0.998,
    findings: tuple[Finding, ...] = (),
    on_gpu: bool = True,
    mode: str | None = None,
    jetpack: str | None = None,
    seed: int = 0,
) -> Measurement:
    """A plain and a merged contender with seeded noise of one per cent."""
    noise = np.random.default_rng(seed)
    results = []
    reference = None
    for name, median, network in (("plain", plain_ms, VIT_B), ("merged", merged_ms, MERGED)):
        samples = (median * 1e6 * np.exp(0.01 * noise.standard_normal(60))).astype(np.int64)
        against = None
        if reference is not None:
            against = compare(samples, reference, baseline="plain", seed=0)
        runtime = {"runtime": "tensorrt", "version": "10.3.0"}
        results.append(
            ContenderResult(
                name=name,
                latency=summarise(samples, batch=batch),
                against=against,
                agreement=None,
                runtime=runtime | ({"compute_capability": "8.7"} if on_gpu else {"threads": "2"}),
                artefact=artefact(network, target=target, precision=precision, agreement=agreement),
                samples_ns=tuple(map(int, samples)),
            )
        )
        reference = samples if reference is None else reference
    use = None
    if gpu is not None:
        use = GpuUse(gpu=Gpu(name=gpu, driver="580"), before=_STATE, after=_STATE)
    return Measurement(
        baseline="plain", batch=batch, contenders=tuple(results), absent=(), findings=findings,
        schedule=Schedule(), rounds=60, warmup_rounds=5, duration_ns=10**9, other_load=_QUIET,
        environment=dataclasses.replace(environment(board=board), jetpack=jetpack),
        plain="plain", gpu=use, conditions=None if mode is None else conditions(mode),
    )  # fmt: skip
