"""`bench` with energy: beside the rounds, in the JSON and back, refused where no sensor is."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.comparison import bench, rebase
from benchmarks.conditions.environment import Environment
from benchmarks.conditions.validity import Finding, MachineUse
from benchmarks.conditions.watched import Conditions, Watch
from benchmarks.energy.course import Plan
from benchmarks.energy.meter import EnergyMeter
from benchmarks.energy.sensor import Missing
from benchmarks.latency import Schedule
from benchmarks.measurement import Measurement
from benchmarks.measurement_file import read_measurement, to_document, write_measurement
from benchmarks.report.energy import format_energy
from engines.errors import MachineError
from engines.machine.snapshot import Snapshot
from tests.benchmarks.conftest import FakeWatcher
from tests.benchmarks.energy.fakes import FakeMachine, FakeSensor

IDLE_MW, WORK_MW = 4_000.0, 10_000.0
PLAIN_MS, MERGED_MS = 10, 7


@pytest.fixture
def clock() -> FakeMachine:
    return FakeMachine(lambda seconds, who: WORK_MW if who else IDLE_MW)


@pytest.fixture
def fake_bench(
    clock: FakeMachine, quiet_machine: Any, watcher: Any, environment: Environment
) -> Any:
    def call(engines: Any, **options: Any) -> Measurement:
        settings: dict[str, Any] = {
            "schedule": Schedule(min_rounds=30, min_s=0.0, settle_s=0.0),
            "clock": clock,
            "pause": clock.pause,
            "machine": quiet_machine,
            "watcher": watcher,
            "environment": lambda: environment,
            "energy": meter(clock),
            **options,
        }
        return bench(engines, **settings)

    return call


def meter(clock: FakeMachine, **changes: Any) -> EnergyMeter:
    fakes: list[FakeSensor] = []

    def find(devices: Any) -> Any:
        assert devices == {"cpu"}
        fakes.append(FakeSensor(clock, **changes))
        return fakes[-1].sensor()

    return EnergyMeter(
        plan=Plan(idle_s=3.0), find=find, record=lambda sensor: fakes[-1].recording(sensor)
    )


@pytest.fixture
def engines(make_engine: Any) -> list[Any]:
    return [
        make_engine("plain", PLAIN_MS * 10**6),
        make_engine("merged", MERGED_MS * 10**6),
    ]


def test_every_contender_has_its_energy_beside_its_latency(fake_bench: Any, engines: Any) -> None:
    found = fake_bench(engines)

    plain, merged = found.contenders
    assert plain.energy.gross.value == pytest.approx(WORK_MW * PLAIN_MS / 1e3, rel=0.03)
    assert plain.energy.net.value == pytest.approx((WORK_MW - IDLE_MW) * PLAIN_MS / 1e3, rel=0.05)
    assert merged.energy.against.verdict == "less"
    sentence = merged.energy.against.sentence()
    assert re.fullmatch(r"30\.\d % less \[29\.\d, 30\.\d\] energy an image than plain", sentence)
    assert found.energy.rule == "total = TOTAL"
    assert found.energy.idle_before.value == pytest.approx(IDLE_MW, rel=0.02)
    assert found.rounds == 30  # the paired rounds are what they are without energy


def test_a_board_that_was_slowed_down_tells_no_energy(fake_bench: Any, engines: Any) -> None:
    slowed = Watch(
        interval_s=0.25, times_ms=(0,) * 8, series={"slowed.gpu-throttle-alert": (0,) * 7 + (1,)}
    )
    conditions = Conditions(before=Snapshot(), after=Snapshot(), watch=slowed)

    found = fake_bench(engines, watcher=FakeWatcher(conditions), strict=False)

    assert found.energy.conditions == conditions
    for contender in found.contenders:
        assert contender.energy.gross is None
        assert "gpu-throttle-alert slowed the machine down" in contender.energy.why_not


def test_it_survives_its_json(fake_bench: Any, engines: Any, tmp_path: Path) -> None:
    found = fake_bench(engines)
    path = tmp_path / "a.latency.json"

    write_measurement(path, found)

    assert read_measurement(path) == found
    assert len(path.read_text().splitlines()) < 600


def test_a_file_from_before_energy_stays_readable(
    fake_bench: Any, engines: Any, tmp_path: Path
) -> None:
    found = fake_bench(engines, energy=None)
    document = json.loads(json.dumps(to_document(found)))
    del document["energy"]
    for contender in document["contenders"]:
        del contender["energy"]
    path = tmp_path / "old.json"
    path.write_text(json.dumps(document))

    assert read_measurement(path) == found
    assert found.energy is found.contenders[0].energy is None


def test_another_baseline_compares_energies_too(fake_bench: Any, engines: Any) -> None:
    found: Any = rebase(fake_bench(engines), "merged")

    assert found.result("merged").energy.against is None
    against = found.result("plain").energy.against
    assert against.baseline == "merged"
    assert against.verdict == "more"
    assert against.ratio == pytest.approx(PLAIN_MS / MERGED_MS, rel=0.03)
    assert found.result("plain").energy.against_net is not None


def test_no_sensor_is_refused_before_anything_is_measured(
    fake_bench: Any, engines: Any, clock: FakeMachine
) -> None:
    none = EnergyMeter(find=lambda devices: (Missing(source="RAPL", reason="none", fix="sudo x"),))

    with pytest.raises(MachineError, match="no sensor here tells the energy: RAPL: none") as caught:
        fake_bench(engines, energy=none)

    assert caught.value.fix == "sudo x"
    assert caught.value.exit_code == 4
    assert clock.now_ns == 0


def test_a_sensor_that_is_gone_after_the_rounds_leaves_the_latencies(
    fake_bench: Any, engines: Any, clock: FakeMachine, tmp_path: Path
) -> None:
    calls: list[Any] = []

    def find(devices: Any) -> Any:
        calls.append(devices)
        if len(calls) > 1:
            return (Missing(source="RAPL", reason="unplugged"),)
        return FakeSensor(clock).sensor()

    found = fake_bench(engines, energy=EnergyMeter(find=find))

    assert found.valid
    assert found.rounds == 30
    assert found.contenders[1].energy.why_not == "the sensor is gone: RAPL: unplugged"
    assert any("is gone: RAPL: unplugged" in line for line in format_energy(found, width=200))
    write_measurement(tmp_path / "a.json", found)
    assert read_measurement(tmp_path / "a.json") == found


def test_other_programs_take_the_numbers_away(
    fake_bench: Any, engines: Any, quiet_machine: Callable[[], MachineUse]
) -> None:
    """In the rounds the machine is quiet; then somebody takes a third of it."""
    seen: list[float] = []

    def machine() -> MachineUse:
        use = quiet_machine()
        seen.append(use.wall_s)
        is_late = len(seen) > 3
        return dataclasses.replace(use, busy_s=use.own_s + (0.7 * use.wall_s if is_late else 0.0))

    found = fake_bench(engines, machine=machine)

    assert found.valid
    assert found.contenders[0].energy.gross is None
    assert "other programs used" in found.contenders[1].energy.why_not
    assert any(one.severity == "invalid" for one in found.energy.findings)


def test_a_power_mode_that_changes_while_contenders_work_takes_the_numbers_away(
    fake_bench: Any, engines: Any, watcher: Any
) -> None:
    """Between the rounds, which are valid, and the last rest."""
    attempts: list[float] = []
    quiet = watcher.conditions

    def conditions(*, rounds_s: float) -> Any:
        attempts.append(rounds_s)
        found = quiet(rounds_s=rounds_s)
        if len(attempts) < 2:
            return found
        before, after = (
            dataclasses.replace(found.before, power_mode=mode) for mode in ("25W", "15W")
        )
        return dataclasses.replace(found, before=before, after=after)

    watcher.conditions = conditions
    found = fake_bench(engines)

    assert found.valid
    assert "the power mode went from 25W to 15W" in found.contenders[0].energy.why_not
    plan = found.energy.plan
    segments = 2 * plan.segments * (plan.settle_s + plan.steady_s + plan.tail_s)
    assert attempts[1] == pytest.approx(segments, rel=0.05)  # rest is not watched
    assert found.energy.conditions.after.power_mode == "15W"


def test_an_invalid_measurement_claims_nothing_about_energy(fake_bench: Any, engines: Any) -> None:
    found = fake_bench(engines, schedule=Schedule(max_rounds=5, settle_s=0.0), strict=False)

    assert not found.valid
    assert found.result("merged").energy.against.verdict == "not valid"
    assert found.result("merged").energy.against.sentence() == "energy not known against plain"


def test_the_table_fits_80_columns_and_says_what_its_numbers_rest_on(
    fake_bench: Any, engines: Any
) -> None:
    measurement = fake_bench(engines)
    lines = format_energy(measurement)

    assert max(map(len, lines)) <= 80
    text = " ".join(" ".join(lines).split())
    assert re.search(r"merged (69|70)\.\d+ \[[^]]*\] 4\d\.\d+ \[[^]]*\] (29|30)\.\d % less", text)
    assert "left out at this width: W" in text
    assert "left out" not in " ".join(format_energy(measurement, width=100))
    assert "energy: a fake sensor, a fake machine (total = TOTAL)" in text
    assert "at rest 4.0" in text
    assert format_energy(fake_bench(engines, energy=None)) == []


def test_what_is_said_of_the_rounds_is_not_said_again(fake_bench: Any, engines: Any) -> None:
    found = fake_bench(engines)
    finding = Finding(severity="doubtful", what="nobody knows the clocks", fix="look")
    energy = dataclasses.replace(found.energy, findings=(finding,))

    both = dataclasses.replace(found, energy=energy, findings=(finding,))
    alone = dataclasses.replace(found, energy=energy, findings=())

    assert "doubtful: nobody knows the clocks; look" in format_energy(alone)
    assert "nobody knows" not in " ".join(format_energy(both))


def test_an_unknown_energy_has_its_reason_in_the_table(
    fake_bench: Any, engines: Any, clock: FakeMachine
) -> None:
    found = fake_bench(engines, energy=meter(clock, dies_at_s=20.0))

    text = " ".join(" ".join(format_energy(found)).split())
    assert "plain not known" in text
    assert "NOT VALID: the energy of merged is not known: the sensor was lost: the wire" in text
