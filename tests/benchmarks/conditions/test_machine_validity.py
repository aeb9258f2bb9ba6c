"""What the machine's state says against a measurement; each finding has a quiet twin."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from benchmarks.conditions.in_words import condition_facts, condition_line
from benchmarks.conditions.machine_validity import check_conditions
from benchmarks.conditions.validity import Finding, OtherLoad, check, machine_use, other_load
from benchmarks.conditions.watched import Conditions, Watch
from engines.machine.clocks import Clock
from engines.machine.snapshot import GpuUsers, Snapshot
from engines.machine.state import GpuProcess
from tests.benchmarks.conditions.test_validity import noisy, rounds_of

READINGS = 12
HELD = Clock("GPU", 918_000_000, 918_000_000, True, 918_000_000)
FREE = Clock("GPU", 306_000_000, 918_000_000, False, 612_000_000)
PROCESSOR = Clock("cpu0", 1_728_000_000, 1_728_000_000, True, 1_728_000_000)
BEFORE = Snapshot(
    power_mode="25W",
    clocks=(PROCESSOR, HELD),
    governors=("schedutil",),
    slows_at_mc={"tj-thermal": 99_000},
    events={"over-current oc3": 37},
    quota_us=5,
    fans={"pwmfan pwm": 69},
)
SERIES: dict[str, tuple[int | None, ...]] = {
    "busy_ticks": (0,) * READINGS,
    "clock_mhz.GPU": (918,) * READINGS,
    "cap_mhz.GPU": (918,) * READINGS,
    "clock_mhz.cpu0": (1728,) * READINGS,
    "temperature_mc.tj-thermal": (52_000, *(58_000,) * (READINGS - 1)),
    "slowed.gpu-throttle-alert": (0,) * READINGS,
    "power_mode_number": (1,) * READINGS,
    "swapped_mib.in": (7,) * READINGS,
    "swapped_mib.out": (9,) * READINGS,
    "available_mib": (4000,) * READINGS,
}


def watch(**changed: Any) -> Watch:
    times = tuple(250 * at for at in range(READINGS))
    settings: dict[str, Any] = {
        "interval_s": 0.25, "times_ms": times, "series": SERIES, "cpu_s": 0.003, "lived_s": 3.0,
    }  # fmt: skip
    return Watch(**{**settings, **changed})


QUIET = watch()


def during(name: str, *values: int | None) -> Watch:
    """Let the last readings of a series be these."""
    series = {**SERIES, name: (*SERIES[name][: READINGS - len(values)], *values)}
    return watch(series=series)


def conditions(
    *, before: Snapshot = BEFORE, after: Snapshot | None = None, watch: Watch | None = None,
    **rest: Any,
) -> Conditions:  # fmt: skip
    return Conditions(before=before, after=after or before, watch=watch or QUIET, **rest)


def findings(found: Conditions, *, rounds_s: float = 3.0, on_gpu: bool = True) -> list[Finding]:
    return list(check_conditions(found, rounds_s=rounds_s, on_gpu=on_gpu, on_jetson=True))


def changed(**values: Any) -> Snapshot:
    return dataclasses.replace(BEFORE, **values)


def test_a_board_that_is_left_alone_has_no_findings() -> None:
    assert findings(conditions()) == []


@pytest.mark.parametrize(
    ("found", "what"),
    [
        (conditions(watch=watch(failure="ended by itself with -9")), "the watcher ended by itself"),
        (conditions(watch=watch(times_ms=(0, 250, 500))), "looked at 3 times"),
        (conditions(watch=watch(times_ms=())), "looked at 0 times"),
        (
            conditions(watch=watch(times_ms=(*range(0, 2750, 250), 9000))),
            "stood still for 6.5 s",
        ),
        (conditions(watch=watch(times_ms=tuple(range(4000, 7000, 250)))), "still for 4.0 s"),
        (conditions(after=changed(power_mode="15W")), "power mode went from 25W to 15W"),
        (conditions(after=changed(power_mode=None)), "from 25W to an unknown one"),
        (conditions(watch=during("power_mode_number", 0, 1)), "25W was changed and set again"),
        (conditions(after=changed(governors=("performance",))), "from schedutil to performance"),
        (conditions(after=changed(events={"over-current oc3": 38})), "oc3: the machine was slowed"),
        (
            conditions(watch=during("slowed.gpu-throttle-alert", 1, 0)),
            "gpu-throttle-alert slowed the machine down in 1 of 12 readings",
        ),
        (conditions(after=changed(slowed_by=("cpu-throttle-alert",))), "down at the end"),
        (
            conditions(watch=during("temperature_mc.tj-thermal", 99_500)),
            "tj-thermal reached 99.5 °C; from 99 °C on",
        ),
        (conditions(after=changed(quota_us=500_005)), "quota held it up for 0.50 s"),
        (conditions(watch=during("cap_mhz.GPU", 714)), "limit of the GPU clock fell from 918"),
        (conditions(watch=during("clock_mhz.GPU", 714)), "held at 918 MHz and fell to 714 MHz"),
        (conditions(watch=during("clock_mhz.cpu0", 900)), "cpu0 clock is held at 1728 MHz"),
        (
            conditions(watch=during("temperature_mc.tj-thermal", None, None)),
            "the sensor tj-thermal fell silent after 10 of 12",
        ),
        (conditions(watch=during("temperature_mc.tj-thermal", -256_000, -256_000)), "fell silent"),
        (conditions(watch=during("clock_mhz.GPU", None, None, None)), "the sensor GPU fell silent"),
        (conditions(watch=during("swapped_mib.out", 50)), "41 MiB went to or came from swap"),
        (
            conditions(gpu_before=GpuUsers(load=0.4)),
            "others kept the GPU busy for 40% of the time before",
        ),
        (
            conditions(
                gpu_before=GpuUsers(listed=(), load=0.0),
                gpu_after=GpuUsers(listed=(GpuProcess(7, "train.py", None),), load=0.9),
            ),
            "others came to the GPU or left it during the measurement: train.py (7)",
        ),
    ],
)
def test_what_makes_a_number_misleading_is_invalid_and_says_what_to_do(
    found: Conditions, what: str
) -> None:
    (finding,) = findings(found)

    assert finding.severity == "invalid"
    assert what in finding.what
    assert finding.fix


@pytest.mark.parametrize(
    ("found", "what"),
    [
        (conditions(watch=Watch(interval_s=0.25)), "this system shows nothing"),
        (conditions(before=changed(clocks=(PROCESSOR, FREE))), "may move between 306 and 918 MHz"),
        (conditions(before=changed(clocks=(PROCESSOR,))), "does not tell its GPU's clock"),
        (conditions(after=changed(quota_us=20_005)), "quota held it up for 0.02 s"),
        (conditions(watch=during("swapped_mib.in", 10)), "3 MiB went to or came from swap"),
        (conditions(watch=during("available_mib", 120)), "only 120 MiB of memory were free"),
        (conditions(gpu_before=GpuUsers(load=0.1)), "others kept the GPU busy for 10%"),
        (
            conditions(
                gpu_before=GpuUsers(listed=(GpuProcess(9, "notebook", 300),), load=0.0),
                gpu_after=GpuUsers(listed=(GpuProcess(9, "notebook", 300),), load=0.9),
            ),
            "others hold the GPU, and were idle before: notebook (9)",
        ),
    ],
)
def test_what_a_reader_must_know_is_doubtful(found: Conditions, what: str) -> None:
    (finding,) = findings(found)

    assert finding.severity == "doubtful"
    assert what in finding.what
    assert finding.fix


def test_processors_that_slow_down_together_are_a_doubt() -> None:
    free = dataclasses.replace(PROCESSOR, least_hz=100_000_000, is_held=False)
    falling = (*(1700,) * 4, *(1600,) * 4, *(1400,) * 4)
    series = {**SERIES, "clock_mhz.cpu0": falling, "clock_mhz.cpu1": falling}
    found = conditions(before=changed(clocks=(free, HELD)), watch=watch(series=series))

    (finding,) = findings(found)

    assert finding.severity == "doubtful"
    assert "fell from 1700 to 1400 MHz" in finding.what
    assert not findings(conditions(before=changed(clocks=(free, HELD))))


def test_over_current_that_lowers_no_clock_is_a_doubt() -> None:
    before = changed(alarms={"over-current oc1": 1})
    found = conditions(before=before, after=dataclasses.replace(before, alarms={
        "over-current oc1": 4,
    }))  # fmt: skip

    (finding,) = findings(found)

    assert (finding.severity, "noticed 3 times" in finding.what) == ("doubtful", True)


def test_what_only_a_gpu_measurement_minds_is_silent_on_a_cpu() -> None:
    found = conditions(
        before=changed(clocks=(PROCESSOR, FREE)), gpu_before=GpuUsers(load=0.9),
        watch=during("clock_mhz.GPU", None, None),
    )  # fmt: skip
    fell = conditions(watch=during("clock_mhz.GPU", 714))
    limited = conditions(watch=during("cap_mhz.GPU", 714))

    for one in (found, fell, limited):
        assert findings(one, on_gpu=False) == []
        assert findings(one) != []


def test_a_short_measurement_needs_two_readings_alone() -> None:
    both_ends = watch(times_ms=(-30, 340))

    assert findings(conditions(watch=both_ends), rounds_s=0.3) == []
    assert findings(conditions(watch=both_ends), rounds_s=3.0)


def test_a_sensor_that_comes_back_is_alive() -> None:
    assert not findings(conditions(watch=during("temperature_mc.tj-thermal", None, None, 58_000)))


def test_a_counter_that_stands_still_is_history() -> None:
    assert not findings(conditions(after=changed(events={"over-current oc3": 37, "new": 4})))


def test_conditions_in_words() -> None:
    line = condition_line(conditions())

    assert line == (
        "power mode 25W; clocks held: GPU 918 MHz, CPU 1728 MHz; 52 to 58 °C (tj-thermal); "
        "nothing slowed it down"
    )
    facts = dict(condition_facts(conditions()))
    assert facts["watched"] == "12 readings, 0.25 s apart, 0.10% of a core"
    assert facts["fan"] == "pwmfan pwm 69"
    slowed = conditions(
        watch=during("slowed.gpu-throttle-alert", 1), after=changed(events={"over-current oc3": 40})
    )
    assert "slowed down by over-current oc3, gpu-throttle-alert" in condition_line(slowed)
    silent = Conditions(before=Snapshot(), after=Snapshot(), watch=Watch(interval_s=0.25))
    assert condition_line(silent) == "the machine shows neither clocks nor temperatures"
    dead = conditions(watch=watch(failure="did not answer"))
    assert dict(condition_facts(dead))["watched"] == "no: the watcher did not answer"


def test_one_busy_processor_of_many_is_a_doubt() -> None:
    """On sixteen processors a busy one is 6 %; on sixty-four less than the limit of shares."""
    rounds = rounds_of(noisy(60), noisy(60, seed=1))

    def said(foreign: float, processors: int | None) -> list[str]:
        load = OtherLoad(foreign=foreign, steal=0.0, processors=processors)
        return [one.severity for one in check(rounds, baseline="base", load=load)]

    assert said(1 / 64, 64) == ["doubtful"]
    assert said(0.3 / 64, 64) == []
    assert said(1 / 64, None) == []  # a measurement of before
    assert said(1 / 2, 2) == ["invalid"]


def test_the_counters_say_how_many_processors_they_cover(tmp_path: Any) -> None:
    stat = tmp_path / "stat"
    stat.write_text("cpu  100 0 50 900 0 0 0 0 0 0\n")
    before = machine_use(wall_s=0.0, own_s=0.0, stat=stat)
    stat.write_text("cpu  200 0 50 900 0 0 0 0 0 0\n")

    load = other_load(before, machine_use(wall_s=1.0, own_s=0.0, stat=stat))

    assert load.processors == before.processors
    assert load.foreign == pytest.approx(1 / before.processors, rel=0.01)
