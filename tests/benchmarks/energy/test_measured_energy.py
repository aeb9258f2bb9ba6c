"""Energies that are known beforehand come out within their intervals, or not at all."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from benchmarks.energy.course import Plan, run_course
from benchmarks.energy.evaluate import evaluate
from benchmarks.energy.result import ContenderEnergy, EnergyRecord, Estimate
from tests.benchmarks.energy.fakes import FakeMachine, FakeSensor, Power

IDLE_MW = 5_000.0
WORK_MW = {"plain": 15_000.0, "merged": 13_000.0}
LATENCY_S = {"plain": 0.010, "merged": 0.007}
TRUE_MJ = {name: WORK_MW[name] * LATENCY_S[name] for name in WORK_MW}
TRUE_NET_MJ = {name: (WORK_MW[name] - IDLE_MW) * LATENCY_S[name] for name in WORK_MW}


def steady(seconds: float, who: str) -> float:
    return WORK_MW[who] if who else IDLE_MW


def square_wave(seconds: float, who: str) -> float:
    """Twice the power in half of the time; the mean is that of `steady`."""
    mean = steady(seconds, who)
    return mean if not who else mean * (1.5 if seconds % 0.37 < 0.185 else 0.5)


def measured(
    power: Power = steady,
    *,
    names: tuple[str, ...] = ("plain", "merged"),
    batch: int = 1,
    averaging_s: float = 0.0,
    plan: Plan | None = None,
    seed: int = 0,
    **sensor: Any,
) -> tuple[EnergyRecord, Mapping[str, ContenderEnergy]]:
    machine = FakeMachine(power)
    fake = FakeSensor(machine, seed=seed, **sensor)
    found = fake.sensor(averaging_s=averaging_s)
    course = run_course(
        [machine.contender(name, LATENCY_S[name]) for name in names],
        found,
        fake.recording,
        plan=plan or Plan(),
        seed=seed,
        clock=machine,
        pause=machine.pause,
    )
    assert fake.closed
    return evaluate(course, found, batch=batch, baseline=names[0], seed=seed)


def holds(estimate: Estimate | None, truth: float, *, width: float = 0.1) -> bool:
    """Whether an interval holds the truth and is no wider than a share of it."""
    assert estimate is not None
    assert estimate.low <= estimate.value <= estimate.high
    assert estimate.high - estimate.low < width * truth
    return estimate.low <= truth <= estimate.high


@pytest.mark.parametrize(
    ("power", "sensor"),
    [
        (steady, {}),
        (square_wave, {}),
        (steady, {"noise": 0.05}),
        (steady, {"period_s": 0.02, "interval_s": 0.1}),
        (steady, {"period_s": 1.0, "interval_s": 0.1}),
        (square_wave, {"period_s": 0.4, "interval_s": 0.05}),
        (steady, {"counts": True, "period_s": 0.001}),
        (square_wave, {"counts": True, "period_s": 0.1, "interval_s": 0.05}),
        (steady, {"counts": True, "period_s": 0.001, "wraps_at_mj": 40_000.0}),
        (steady, {"counts": True, "period_s": 0.02, "wraps_at_mj": 7_777.0}),
        (steady, {"loses": lambda number: number % 7 == 0}),
        (steady, {"counts": True, "period_s": 0.001, "loses": lambda number: number % 3 == 0}),
    ],
    ids=[
        "steady", "square wave", "noisy", "a sensor faster than it is read", "a slow sensor",
        "a slow sensor and a square wave", "counter", "coarse counter", "counter that wraps",
        "counter that wraps twice a segment", "missing readings", "counter with missing readings",
    ],
)  # fmt: skip
def test_a_known_energy_lies_within_its_interval(power: Power, sensor: dict[str, Any]) -> None:
    record, found = measured(power, **sensor)

    for name, energy in found.items():
        assert not energy.why_not, energy.why_not
        assert holds(energy.gross, TRUE_MJ[name]), (name, energy.gross)
        assert holds(energy.net, TRUE_NET_MJ[name], width=0.15), (name, energy.net)
        assert energy.seconds >= 10
        assert energy.images == pytest.approx(energy.seconds / LATENCY_S[name], rel=1e-3)
        assert energy.power_mw == pytest.approx(WORK_MW[name], rel=0.03)
    against = found["merged"].against
    assert against is not None
    assert against.verdict == "less"
    assert against.low <= TRUE_MJ["merged"] / TRUE_MJ["plain"] <= against.high
    net = found["merged"].against_net
    assert net is not None
    assert net.low <= TRUE_NET_MJ["merged"] / TRUE_NET_MJ["plain"] <= net.high
    assert found["plain"].against is None
    assert record.findings == ()


def test_an_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    """With noise from reading to reading and from segment to segment, 20 times."""
    hits = ratio_hits = 0
    for seed in range(20):
        levels = levels_of(seed)

        def power(seconds: float, who: str, levels: Any = levels) -> float:
            return steady(seconds, who) * (levels[int(seconds / 1.75)] if who else 1.0)

        _, found = measured(power, seed=seed, noise=0.02, plan=Plan(idle_s=1.0, cool_s=0.5))
        gross, against = found["merged"].gross, found["merged"].against
        assert gross is not None
        assert against is not None
        hits += gross.low <= TRUE_MJ["merged"] <= gross.high
        ratio_hits += against.low <= TRUE_MJ["merged"] / TRUE_MJ["plain"] <= against.high
    assert hits >= 18
    assert ratio_hits >= 18


def levels_of(seed: int) -> Any:
    return np.exp(0.03 * np.random.default_rng(1000 + seed).standard_normal(200))


def test_a_batch_divides_the_energy_by_its_images() -> None:
    one, eight = measured()[1]["plain"], measured(batch=8)[1]["plain"]

    assert one.gross is not None
    assert eight.gross is not None
    assert eight.gross.value == pytest.approx(one.gross.value / 8)
    assert eight.images == 8 * one.images


def test_a_total_is_never_added_to_its_parts() -> None:
    record, found = measured()

    assert record.total == ("TOTAL",)
    rails = found["plain"].rails_mw
    assert set(rails) == {"PART_A", "TOTAL", "PART_B"}
    assert rails["TOTAL"] == pytest.approx(WORK_MW["plain"], rel=0.02)
    assert found["plain"].power_mw == pytest.approx(rails["TOTAL"], rel=0.02)
    assert sum(rails.values()) > 1.5 * WORK_MW["plain"]  # what adding all would have given


def test_the_same_work_shows_no_difference() -> None:
    names = ("plain", "twin")
    LATENCY_S["twin"], WORK_MW["twin"] = LATENCY_S["plain"], WORK_MW["plain"]

    _, found = measured(names=names)

    against = found["twin"].against
    assert against is not None
    assert against.verdict == "no difference shown"
    assert "no difference in energy" in against.sentence()


def test_a_sensor_that_dies_gives_no_number_and_the_reason() -> None:
    _, found = measured(dies_at_s=30.0)

    for energy in found.values():
        assert (energy.gross, energy.net, energy.against) == (None, None, None)
        assert energy.why_not == "the sensor was lost: the wire is broken"


def test_a_sensor_that_never_answers_gives_no_number() -> None:
    _, found = measured(loses=lambda number: True)

    assert {one.why_not for one in found.values()} == {"0 readings in all"}


def test_a_sensor_that_stands_still_gives_no_number() -> None:
    _, found = measured(lambda seconds, who: 5_000.0, noise=0.0)

    assert all("stood still" in one.why_not for one in found.values())


def test_a_counter_that_stands_still_gives_no_number() -> None:
    _, found = measured(lambda seconds, who: 0.0, counts=True)

    assert all("stood still" in one.why_not for one in found.values())


def test_a_gap_gives_no_number_and_a_short_one_does_not_matter() -> None:
    _, gap = measured(loses=lambda number: 200 <= number < 215)
    _, short = measured(loses=lambda number: 200 <= number < 203)

    assert any("gave nothing for 1.6 s" in one.why_not for one in gap.values())
    assert all(one.gross for one in short.values())


def test_a_sensor_that_is_too_slow_for_turns_gives_no_number() -> None:
    """It does not show its pace before the first segment: the same value three times."""
    _, found = measured(period_s=3.5, interval_s=0.1)

    assert all(one.why_not or one.gross for one in found.values())
    for name, one in found.items():
        if one.gross is not None:
            assert holds(one.gross, TRUE_MJ[name])


def test_a_smoothing_sensor_is_waited_for() -> None:
    record, found = measured(averaging_s=1.0)

    assert record.plan.settle_s >= 1.2
    assert holds(found["merged"].gross, TRUE_MJ["merged"])


def test_rest_that_differs_is_said_and_widens_the_net_energy() -> None:
    def warmer(seconds: float, who: str) -> float:
        return steady(seconds, who) if who or seconds < 20 else 1.4 * IDLE_MW

    record, found = measured(warmer, noise=0.001)

    (finding,) = record.findings
    assert finding.severity == "doubtful"
    assert "5.00 W before" in finding.what
    assert "7.0" in finding.what
    net = found["plain"].net
    assert net is not None
    lowest, highest = ((WORK_MW["plain"] - rest) * 0.010 for rest in (1.4 * IDLE_MW, IDLE_MW))
    assert net.low < lowest < highest < net.high
    assert record.idle_before is not None
    assert holds(record.idle_before, IDLE_MW)
    assert holds(record.idle_after, 1.4 * IDLE_MW)


def test_work_that_rest_hides_has_a_gross_energy_alone() -> None:
    def feeble(seconds: float, who: str) -> float:
        return IDLE_MW * (1.01 if who else 1.0) * (1 + 0.1 * math.sin(seconds))

    _, found = measured(feeble)

    assert found["plain"].gross is not None
    assert found["plain"].net is None
    assert "cannot be told apart" in found["plain"].why_no_net


def test_a_run_that_is_longer_than_a_segment_is_counted_whole() -> None:
    LATENCY_S["huge"], WORK_MW["huge"] = 4.0, 20_000.0

    _, found = measured(names=("huge",), batch=64)

    assert found["huge"].images % 64 == 0
    assert holds(found["huge"].gross, 20_000.0 * 4.0 / 64)


def test_segments_and_slices_are_kept_so_that_anyone_can_count_again() -> None:
    _, found = measured()

    energy = found["merged"]
    assert sum(energy.segments) == len(energy.slices_uj) == len(energy.slices_images)
    assert len(energy.segments) >= 8
    assert energy.gross is not None
    again = sum(energy.slices_uj) / 1e3 / sum(energy.slices_images)
    assert again == pytest.approx(energy.gross.value)
