from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from benchmarks.comparison import Opened, bench
from benchmarks.cpu_latency import plain_macs, summarise_batch
from benchmarks.environment import Environment
from benchmarks.latency import Schedule
from benchmarks.measurement import Artefact, Measurement


@pytest.fixture
def measurement(
    make_engine: Any, clock: Any, quiet_machine: Any, environment: Environment
) -> Measurement:
    artefact = Artefact(
        file="f.onnx", sha256="0", precision="fp32", weights="random", target="cpu",
        macs=plain_macs() // 2,
    )  # fmt: skip
    speeds = {"ort_plain": 10_000_000, "openvino_plain": 8_000_000, "torch_eager": 12_000_000}
    return bench(
        [
            *(make_engine(name, ns, spread=0.001) for name, ns in speeds.items()),
            Opened(
                name="frozen",
                engine=make_engine("f", 6_000_000, spread=0.001),
                artefact=artefact,
                macs=artefact.macs,
            ),
        ],
        schedule=Schedule(min_rounds=30, min_s=0.0),
        gemm_peak_macs_per_s=plain_macs() * 100.0,
        clock=clock,
        pause=clock.pause,
        machine=quiet_machine,
        environment=lambda: environment,
    )


def test_summary_holds_frozen_against_the_fastest_plain_way(measurement: Measurement) -> None:
    summary = summarise_batch(measurement, plain=["ort_plain", "openvino_plain", "torch_eager"])

    assert summary is not None
    assert summary.fastest_plain == "openvino_plain"
    assert summary.ratio_to_fastest_plain == pytest.approx(0.75, rel=0.01)
    assert summary.ratio_to_plain_ort == pytest.approx(0.60, rel=0.01)
    assert summary.peak_share == pytest.approx(0.5 / 6e-3 / 100, rel=0.01)
    assert summary.macs_ratio == pytest.approx(0.5)


def test_without_a_plain_way_there_is_no_summary(measurement: Measurement) -> None:
    alone = dataclasses.replace(measurement, contenders=(measurement.result("frozen"),))

    assert summarise_batch(alone, plain=["ort_plain"]) is None


def test_macs_of_a_plain_vit_b_are_the_published_ones() -> None:
    assert plain_macs() / 1e9 == pytest.approx(17.6, abs=0.1)
