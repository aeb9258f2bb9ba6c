"""What was predicted stands beside what was measured, and nothing is predicted of the unknown."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from benchmarks.measurement import Measurement
from benchmarks.measurement_file import read_measurement, write_measurement
from benchmarks.predicted import rows_of, with_predictions
from benchmarks.prediction.fit import calibrate
from benchmarks.report.table import format_table
from engines.targets import _lookup
from tests.benchmarks.made_measurements import NOISE, VIT_B, conditions, measurement

H200: dict[str, Any] = {"board": None, "gpu": "NVIDIA H200", "target": "cuda"}


def on_h200(**more: Any) -> Measurement:
    return measurement(0.6, 0.64, **(H200 | more))


def test_a_prediction_stands_beside_the_measured_value() -> None:
    found = with_predictions(on_h200())

    for result in found.contenders:
        assert result.predicted is not None
        assert result.predicted.low_ns < result.latency.p50_ns < result.predicted.high_ns
        assert result.predicted.device == "h200"
    (line,) = [one for one in format_table(found).splitlines() if one.startswith("merged: pred")]
    assert line.endswith("ms, measured 0.64")


def test_it_survives_the_json(tmp_path: Path) -> None:
    found = with_predictions(on_h200())
    write_measurement(tmp_path / "a.latency.json", found)

    assert read_measurement(tmp_path / "a.latency.json") == found


def test_noise_is_no_measured_value() -> None:
    text = format_table(with_predictions(on_h200(findings=(NOISE,))))

    assert "predicted" in text
    assert "measured 0" not in text


@pytest.mark.parametrize(
    "unknown",
    [
        {"on_gpu": False},
        {"gpu": "NVIDIA H200 NVL"},
        {"gpu": None},
        {"precision": "fp32"},
        {"board": "NVIDIA Jetson Orin Nano Developer Kit", "target": "jetson-orin-nano-8gb@jp6.2"},
        {"board": "Some other board", "target": "cuda"},
    ],
)
def test_nothing_is_predicted_of_what_is_not_known(unknown: dict[str, object]) -> None:
    """On the CPU, of an unknown GPU, in float32, and on a board without a known power mode."""
    found = with_predictions(on_h200(**unknown))

    assert all(result.predicted is None for result in found.contenders)
    assert "predicted" not in format_table(found)
    assert not list(rows_of([found]))


def test_nothing_is_predicted_of_an_artefact_that_nothing_describes() -> None:
    found = on_h200()
    bare = tuple(
        dataclasses.replace(
            one, artefact=one.artefact and dataclasses.replace(one.artefact, network=None)
        )
        for one in found.contenders
    )

    found = with_predictions(dataclasses.replace(found, contenders=bare))
    assert all(result.predicted is None for result in found.contenders)


def test_a_board_is_predicted_in_its_power_mode() -> None:
    found = with_predictions(measurement(5.0, 4.0, mode="MAXN_SUPER"))
    slow = with_predictions(measurement(5.0, 4.0, mode="15W"))

    fast, other = (one.contenders[1].predicted for one in (found, slow))
    assert fast is not None
    assert other is not None
    assert fast.device == "jetson-orin-nano-8gb, MAXN_SUPER"
    assert fast.high_ns < other.high_ns
    (row, _) = rows_of([found])
    assert row.hardware.mode == "MAXN_SUPER"


def test_a_mode_that_changed_or_has_no_peaks_predicts_nothing() -> None:
    changed = dataclasses.replace(measurement(), conditions=conditions("MAXN_SUPER", "15W"))

    for one in (changed, measurement(mode="7W")):
        assert all(each.predicted is None for each in with_predictions(one).contenders)


def test_the_module_decides_which_board_it_is() -> None:
    """The plan opened there although it was built for another module of the family."""
    one = measurement(mode="MAXN", target="jetson-orin-nano-8gb@jp6.2")
    there = dataclasses.replace(one.environment, device="jetson-orin-nx-16gb")

    (found, _) = with_predictions(dataclasses.replace(one, environment=there)).contenders
    assert found.predicted is not None
    assert found.predicted.device == "jetson-orin-nx-16gb, MAXN"


def test_valid_measurements_are_rows_to_fit() -> None:
    valid, spoiled = on_h200(), on_h200(findings=(NOISE,))

    rows = list(rows_of([valid, spoiled]))

    assert [row.network.merges for row in rows] == [False, True]
    assert rows[0].network == VIT_B
    assert calibrate(rows).measured == 2


def test_the_gpus_own_clock_is_what_a_fit_takes() -> None:
    found = on_h200()
    timed = tuple(dataclasses.replace(one, device_p50_ns=500_000) for one in found.contenders)

    (row, _) = rows_of([dataclasses.replace(found, contenders=timed)])
    assert row.measured_ms == 0.5


def test_no_two_cards_have_one_driver_name() -> None:
    names = [
        name
        for entry in map(_lookup.entry, _lookup.target_names())
        if hasattr(entry, "gpu")
        for name in entry.gpu.driver_names
    ]

    assert len(set(names)) == len(names) > 10
    assert all(_lookup.card(name) is not None for name in names)
    assert _lookup.card("NVIDIA H200 NVL") is None
