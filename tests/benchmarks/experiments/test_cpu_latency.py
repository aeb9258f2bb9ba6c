from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.comparison import bench
from benchmarks.conditions.environment import Environment
from benchmarks.conditions.validity import Finding
from benchmarks.contenders import Opened
from benchmarks.experiments import cpu_latency
from benchmarks.experiments.cpu_latency import merging, plain_macs, summarise_batch
from benchmarks.gemm_peak import GemmPeak, GemmRate, GemmShape
from benchmarks.latency import Schedule
from benchmarks.measurement import Artefact, Measurement
from engines.errors import EngineError, FpetError, MeasurementError

PLAIN = ("ort_plain", "openvino_plain", "torch_eager")


@pytest.fixture
def measurement(
    make_engine: Any, clock: Any, quiet_machine: Any, watcher: Any, environment: Environment
) -> Measurement:
    artefact = Artefact(
        file="f.onnx", sha256="0", precision="fp32", weights="random", target="cpu",
        macs=plain_macs() // 2,
    )  # fmt: skip
    speeds = {"ort_plain": 10_000_000, "openvino_plain": 8_000_000, "torch_eager": 12_000_000}
    return bench(
        [
            *(make_engine(name, ns, spread=0.001) for name, ns in speeds.items()),
            *(
                Opened(
                    name=name,
                    engine=make_engine(name, ns, spread=0.001),
                    artefact=artefact,
                    macs=artefact.macs,
                )
                for name, ns in {"frozen": 6_000_000, "frozen_openvino": 5_000_000}.items()
            ),
        ],
        schedule=Schedule(min_rounds=30, min_s=0.0),
        gemm_peak_macs_per_s=plain_macs() * 100.0,
        clock=clock,
        pause=clock.pause,
        machine=quiet_machine,
        watcher=watcher,
        environment=lambda: environment,
    )


def test_summary_holds_ours_against_the_fastest_plain_way(measurement: Measurement) -> None:
    first, second = summarise_batch(measurement, plain=PLAIN)

    assert (first.name, second.name) == ("frozen", "frozen_openvino")
    assert first.fastest_plain == second.fastest_plain == "openvino_plain"
    assert first.ratio_to_fastest_plain == pytest.approx(0.75, rel=0.01)
    assert second.ratio_to_fastest_plain == pytest.approx(0.625, rel=0.01)
    assert first.ratio_to_plain_ort == pytest.approx(0.60, rel=0.01)
    assert second.ratio_to_plain_ort == pytest.approx(0.50, rel=0.01)
    assert first.peak_share == pytest.approx(0.5 / 6e-3 / 100, rel=0.01)
    assert first.macs_ratio == pytest.approx(0.5)


def test_a_contender_that_is_absent_is_left_out(measurement: Measurement) -> None:
    names = [name for name in (*PLAIN, "frozen") if name != "ort_plain"]
    some = dataclasses.replace(
        measurement, contenders=tuple(measurement.result(name) for name in names)
    )

    (only,) = summarise_batch(some, plain=PLAIN)

    assert (only.name, only.fastest_plain) == ("frozen", "openvino_plain")
    assert only.ratio_to_plain_ort is None


def test_without_a_plain_way_there_is_no_summary(measurement: Measurement) -> None:
    alone = dataclasses.replace(measurement, contenders=(measurement.result("frozen"),))

    assert summarise_batch(alone, plain=["ort_plain"]) == []


def test_merging_is_compared_with_the_same_graph_without_it(measurement: Measurement) -> None:
    names = {
        "ort_plain": "frozen_int8_no_merge",
        "openvino_plain": "frozen_no_merge",
        "torch_eager": "other",
        "frozen": "frozen_int8",
        "frozen_openvino": "frozen",
    }
    renamed = dataclasses.replace(
        measurement,
        contenders=tuple(
            dataclasses.replace(result, name=names[result.name])
            for result in measurement.contenders
        ),
    )

    float32, int8 = merging(renamed)

    assert (float32.name, float32.against) == ("frozen", "frozen_no_merge")
    assert float32.ratio == pytest.approx(5 / 8, rel=0.01)
    assert (int8.name, int8.against) == ("frozen_int8", "frozen_int8_no_merge")
    assert int8.interval[0] <= int8.ratio <= int8.interval[1]
    assert int8.ratio == pytest.approx(6 / 10, rel=0.01)


def test_without_its_pair_nothing_is_said_of_merging(measurement: Measurement) -> None:
    assert merging(measurement) == []


@pytest.fixture
def run_fake(
    measurement: Measurement, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., tuple[int, dict[str, Any]]]:
    """Run `main` on measurements that were taken before: `run_fake(first, second, "--flag")`."""

    def run(*outcomes: Measurement | FpetError, flags: tuple[str, ...] = ()) -> Any:
        given = iter(outcomes)

        def measure(*_: Any) -> Measurement:
            found = next(given)
            if isinstance(found, FpetError):
                raise found
            return found

        rate = GemmRate(library="x", shape=GemmShape(rows=1, inner=1, columns=1), macs_per_s=1e11)
        peak = GemmPeak(rates=(rate,), threads=1, absent=())
        monkeypatch.setattr(cpu_latency, "measure_gemm_peak", lambda threads: peak)
        monkeypatch.setattr(cpu_latency, "_measure", measure)
        path = tmp_path / "cpu.json"
        code = cpu_latency.main(["-o", str(path), *flags])
        return code, json.loads(path.read_text()) if path.exists() else {}

    return run


def test_both_batches_are_written(run_fake: Any, measurement: Measurement) -> None:
    code, document = run_fake(measurement, measurement)

    assert code == 0
    assert len(document["measurements"]) == 2
    assert [entry["name"] for entry in document["summary"]] == ["frozen", "frozen_openvino"] * 2


def test_a_failure_keeps_the_batches_before_it(run_fake: Any, measurement: Measurement) -> None:
    code, document = run_fake(measurement, EngineError("no memory", where="batch 8", fix="buy"))

    assert code == EngineError.exit_code
    assert len(document["measurements"]) == 1


def test_an_invalid_batch_is_written_but_not_summarised(
    run_fake: Any, measurement: Measurement, capsys: pytest.CaptureFixture[str]
) -> None:
    finding = Finding(severity="invalid", what="the machine was busy", fix="wait")
    invalid = dataclasses.replace(measurement, findings=(finding,))

    code, document = run_fake(invalid, measurement)

    assert code == MeasurementError.exit_code
    assert len(document["measurements"]) == 2
    assert len(document["summary"]) == 2
    assert "batch 1 cannot be quoted" in capsys.readouterr().err
    code, document = run_fake(invalid, invalid, flags=("--allow-busy", "--force"))
    assert code == 0
    assert document["summary"] == []


def test_macs_of_a_plain_vit_b_are_the_published_ones() -> None:
    assert plain_macs() / 1e9 == pytest.approx(17.6, abs=0.1)
