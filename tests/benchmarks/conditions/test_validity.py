from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

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
from benchmarks.latency import Rounds
from benchmarks.paired_statistics import FloatArray
from engines.errors import MeasurementError

QUIET = OtherLoad(foreign=0.0, steal=0.0)


def rounds_of(*columns: FloatArray, warmed_up: bool = True) -> Rounds:
    return Rounds(
        names=("base", "other")[: len(columns)],
        latency_ns=np.stack([column.astype(np.int64) for column in columns], axis=1),
        warmup_rounds=6,
        warmed_up=warmed_up,
        duration_ns=10**9,
    )


def noisy(count: int, *, seed: int = 0, spread: float = 0.02) -> FloatArray:
    return np.asarray(1e7 * np.exp(spread * np.random.default_rng(seed).standard_normal(count)))


def said(findings: tuple[Finding, ...]) -> str:
    return " | ".join(f"{finding.severity}: {finding.what}" for finding in findings)


def test_a_quiet_measurement_has_no_findings() -> None:
    rounds = rounds_of(noisy(60), noisy(60, seed=1))

    assert check(rounds, baseline="base", load=QUIET) == ()


def test_few_rounds_are_invalid() -> None:
    found = check(rounds_of(noisy(19), noisy(19, seed=1)), baseline="base", load=QUIET)

    assert "invalid: 19 rounds were measured, 20 are needed" in said(found)


def test_an_unfinished_warm_up_is_doubtful() -> None:
    found = check(rounds_of(noisy(60), warmed_up=False), baseline="base", load=QUIET)

    assert said(found) == "doubtful: latencies still changed after 6 warm-up rounds"


def test_a_thermal_trend_of_everybody_is_doubtful_only() -> None:
    trend = np.linspace(1.0, 1.4, 60)
    rounds = rounds_of(noisy(60) * trend, noisy(60, seed=1) * trend)

    found = said(check(rounds, baseline="base", load=QUIET))

    assert "doubtful: the latency of base moved by +" in found
    assert "invalid" not in found


def test_a_ratio_that_moves_is_invalid() -> None:
    rounds = rounds_of(noisy(60), noisy(60, seed=1) * np.linspace(1.0, 1.4, 60))

    found = said(check(rounds, baseline="base", load=QUIET))

    assert "invalid: the ratio of other to base moved by +" in found


def test_noise_alone_is_not_called_a_drift() -> None:
    findings = [
        check(
            rounds_of(noisy(45, seed=seed, spread=0.2), noisy(45, seed=seed + 999, spread=0.2)),
            baseline="base",
            load=QUIET,
        )
        for seed in range(100)
    ]

    moved = [found for found in findings if "moved by" in said(found)]
    assert len(moved) <= 2


def test_many_outliers_are_doubtful() -> None:
    spiky = noisy(60)
    spiky[::10] *= 3

    found = said(check(rounds_of(spiky), baseline="base", load=QUIET))

    assert "took over 1.5 times the median: base 10%" in found


@pytest.mark.parametrize(
    ("foreign", "severity"), [(0.02, ""), (0.1, "doubtful"), (0.5, "invalid"), (None, "doubtful")]
)
def test_load_of_others_is_judged_by_its_share(foreign: float | None, severity: str) -> None:
    load = OtherLoad(foreign=foreign, steal=0.0)

    found = check(rounds_of(noisy(60)), baseline="base", load=load)

    assert [finding.severity for finding in found] == ([severity] if severity else [])


def test_stolen_time_is_doubtful() -> None:
    load = OtherLoad(foreign=0.0, steal=0.2)

    assert "hypervisor took 20%" in said(check(rounds_of(noisy(60)), baseline="base", load=load))


@pytest.mark.parametrize(
    ("severity", "rounds", "again"),
    [("invalid", 20, True), ("invalid", 19, False), ("doubtful", 60, False)],
)
def test_only_noise_is_worth_another_try(severity: Any, rounds: int, again: bool) -> None:
    findings = [Finding(severity=severity, what="a", fix="b")]

    assert is_worth_repeating(findings, rounds=rounds) is again


def test_only_invalid_findings_are_refused() -> None:
    refuse_invalid([Finding(severity="doubtful", what="a", fix="b")])

    with pytest.raises(MeasurementError, match=r"c(.|\n)*fix:   d") as caught:
        refuse_invalid([Finding(severity="invalid", what="c", fix="d")])
    assert caught.value.exit_code == 9


def test_load_of_others_is_what_this_process_did_not_use(tmp_path: Path) -> None:
    stat = tmp_path / "stat"
    #                    user nice system idle iowait irq softirq steal guest guest_nice
    stat.write_text("cpu  1000 0 200 5000 10 5 5 100 0 0\n")
    before = machine_use(wall_s=0.0, own_s=0.0, stat=stat)
    stat.write_text("cpu  1800 0 300 5100 10 5 5 200 0 0\n")
    after = machine_use(wall_s=10.0, own_s=5.0, stat=stat)

    load = other_load(before, after)

    assert before.busy_s is not None
    capacity = 10.0 * before.processors
    ticks_per_s = 1210 / before.busy_s
    assert load.foreign == pytest.approx((900 / ticks_per_s - 5.0) / capacity)
    assert load.steal == pytest.approx(100 / ticks_per_s / capacity)


def test_a_system_without_counters_is_unknown_not_quiet(tmp_path: Path) -> None:
    use = machine_use(wall_s=0.0, own_s=0.0, stat=tmp_path / "absent")
    later = MachineUse(wall_s=1.0, own_s=1.0, busy_s=None, steal_s=None, processors=2)

    assert other_load(use, later) == OtherLoad(foreign=None, steal=None)
