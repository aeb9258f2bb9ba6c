"""A watch over a fake board, and over this machine, with a process of its own for real."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.comparison import bench, read_machine
from benchmarks.conditions import watcher as module
from benchmarks.conditions.machine_validity import check_conditions
from benchmarks.conditions.validity import check, other_load
from benchmarks.conditions.watched import Conditions
from benchmarks.conditions.watcher import MachineWatcher, watched_sources
from benchmarks.latency import Schedule
from benchmarks.measurement_file import read_measurement, write_measurement
from engines.errors import MeasurementError
from engines.machine import sampler
from engines.machine.snapshot import GpuUsers
from engines.machine.state import GpuProcess
from tests.benchmarks.conditions.test_validity import noisy, rounds_of
from tests.engines.machine.test_sampler import wait_for
from tests.fake_board import GPU, FakeBoard

MEASURE = Schedule(min_rounds=30, min_s=0.0, settle_s=0.0)


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeBoard:
    made = FakeBoard(tmp_path)
    made.use(monkeypatch)
    monkeypatch.setattr(module, "_IDLE_PAUSE_S", 0.0)
    return made


def watched(change: Callable[[], None] = lambda: None) -> Conditions:
    """Watch an attempt in which something happens."""
    with MachineWatcher(interval_s=0.01).attempt() as watch:
        began = time.monotonic()
        change()
        return watch.conditions(rounds_s=time.monotonic() - began)


def said(found: Conditions, *, on_gpu: bool = True) -> str:
    listed = check_conditions(found, rounds_s=0.02, on_gpu=on_gpu, on_jetson=True)
    return " | ".join(f"{one.severity}: {one.what}" for one in listed)


def test_a_board_is_watched_from_before_the_rounds_to_after_them(board: FakeBoard) -> None:
    found = watched()

    assert found.before.power_mode == found.after.power_mode == "25W"
    assert found.watch.failure == ""
    assert found.watch.times_ms[0] <= 0
    assert set(found.watch.of("temperature_mc")) == {"cpu-thermal", "tj-thermal"}
    assert set(found.watch.of("clock_mhz")["GPU"]) == {918}
    assert set(found.watch.of("slowed")) == {"gpu-throttle-alert"}
    assert set(found.watch.series["power_mode_number"]) == {1}
    assert found.gpu_before == GpuUsers(listed=None, load=0.0)
    assert "may move between 306 and 918 MHz" in said(found)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda board: board.mode("15W"), "invalid: the power mode went from 25W to 15W"),
        (
            lambda board: board.write(f"{GPU}/max_freq", "612000000\n"),
            "invalid: the upper limit of the GPU clock fell from 918 to 612 MHz",
        ),
        (
            lambda board: board.write("sys/class/hwmon/hwmon3/oc3_event_cnt", "40\n"),
            "invalid: over-current oc3: the machine was slowed down 3 times",
        ),
        (
            lambda board: board.write("sys/class/thermal/cooling_device1/cur_state", "2\n"),
            "invalid: gpu-throttle-alert slowed the machine down",
        ),
        (
            lambda board: board.write("sys/class/thermal/thermal_zone1/temp", "99500\n"),
            "invalid: tj-thermal reached 99.5 °C",
        ),
        (
            lambda board: board.write("proc/vmstat", "pswpin 99999\npswpout 9\n"),
            "invalid: 390 MiB went to or came from swap",
        ),
    ],
)
def test_what_happens_meanwhile_is_found(
    change: Callable[[FakeBoard], None], what: str, board: FakeBoard
) -> None:
    assert what in said(watched(lambda: change(board)))


def test_a_sensor_that_dies_meanwhile_is_found(board: FakeBoard) -> None:
    with MachineWatcher(interval_s=0.01).attempt() as watch:
        began, process = time.monotonic(), watch._sampler
        assert process is not None
        (board.root / "sys/class/thermal/thermal_zone1/temp").unlink()
        readings = len(process._text().splitlines())
        wait_for(lambda: len(process._text().splitlines()) > readings + 2)
        found = watch.conditions(rounds_s=time.monotonic() - began)

    assert "invalid: the sensor tj-thermal fell silent" in said(found)


def test_a_held_clock_that_falls_meanwhile_is_found(board: FakeBoard) -> None:
    board.clocks(918_000_000, 918_000_000)

    found = watched(lambda: board.write(f"{GPU}/cur_freq", "714000000\n"))

    assert "invalid: the GPU clock is held at 918 MHz and fell to 714 MHz" in said(found)


def test_a_gpu_that_others_use_is_found(board: FakeBoard) -> None:
    board.write("sys/devices/platform/17000000.gpu/load", "420\n")

    assert "invalid: others kept the GPU busy for 42%" in said(watched())


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP])
def test_a_watcher_that_died_or_stalled_never_certifies(
    end: signal.Signals, board: FakeBoard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampler, "_STOP_S", 0.2)
    board.clocks(918_000_000, 918_000_000)
    with MachineWatcher(interval_s=0.01).attempt() as watch:
        process = watch._sampler
        assert process is not None
        assert process.pid is not None
        os.kill(process.pid, end)
        if end is signal.SIGKILL:
            wait_for(lambda: not process._is_running())
        found = watch.conditions(rounds_s=0.02)

    assert said(found).startswith("invalid: nobody watched the machine to the end: the watcher")


def test_a_measurement_that_nobody_watched_to_its_end_exits_as_invalid(
    make_engine: Any, clock: Any, quiet_machine: Any, environment: Any,
    board: FakeBoard, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(sys, "executable", "/nowhere/python3")

    with pytest.raises(MeasurementError, match="could not be started") as refused:
        bench(
            [make_engine("a")], schedule=MEASURE, clock=clock, pause=clock.pause,
            machine=quiet_machine, environment=lambda: environment,
        )  # fmt: skip
    assert refused.value.exit_code == 9


def test_a_watched_measurement_is_written_and_read(
    make_engine: Any, clock: Any, quiet_machine: Any, environment: Any, tmp_path: Path,
    board: FakeBoard,
) -> None:  # fmt: skip
    # rounds of a fake clock take no time, so the first reading and the last are all that are asked
    found = bench(
        [make_engine("a", 10_000)], schedule=MEASURE, clock=clock, pause=clock.pause,
        machine=quiet_machine, environment=lambda: environment,
    )  # fmt: skip
    assert found.conditions is not None
    assert found.conditions.before.power_mode == "25W"

    write_measurement(tmp_path / "x.json", found)

    assert read_measurement(tmp_path / "x.json") == found
    text = (tmp_path / "x.json").read_text()
    document = json.loads(text)
    del document["conditions"]  # as measurements of before have none
    (tmp_path / "old.json").write_text(json.dumps(document))
    assert read_measurement(tmp_path / "old.json") == dataclasses.replace(found, conditions=None)


def test_readings_that_were_missed_take_one_line_in_the_json(
    make_engine: Any, clock: Any, quiet_machine: Any, environment: Any, tmp_path: Path, watcher: Any
) -> None:
    found = bench(
        [make_engine("a")], schedule=MEASURE, clock=clock, pause=clock.pause,
        machine=quiet_machine, environment=lambda: environment, watcher=watcher,
    )  # fmt: skip
    assert found.conditions is not None
    watch = dataclasses.replace(found.conditions.watch, series={"x": (1, None, -3)})
    found = dataclasses.replace(found, conditions=dataclasses.replace(
        found.conditions, watch=watch
    ))  # fmt: skip

    write_measurement(tmp_path / "x.json", found)

    assert '"x": [1,null,-3]' in (tmp_path / "x.json").read_text()
    assert read_measurement(tmp_path / "x.json") == found


def test_a_system_without_such_files_and_pipes_is_not_watched(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(module, "os", SimpleNamespace(name="nt", getpid=os.getpid))

    with MachineWatcher(root=tmp_path).attempt() as watch:
        found = watch.conditions(rounds_s=0.02)

    assert said(found).startswith("doubtful: this system shows nothing")


def test_a_server_s_hundred_clocks_are_not_all_watched(tmp_path: Path) -> None:
    for core in range(100):
        folder = tmp_path / f"sys/devices/system/cpu/cpufreq/policy{core}"
        folder.mkdir(parents=True)
        for name in ("scaling_cur_freq", "scaling_min_freq", "scaling_max_freq"):
            (folder / name).write_text("1\n")

    names = [name for name in watched_sources(tmp_path) if name.startswith("clock_mhz.")]

    assert 10 <= len(names) <= 16
    assert {"clock_mhz.cpu0", "clock_mhz.cpu98"} <= set(names)


def test_this_process_is_not_its_own_neighbour() -> None:
    ours, theirs = GpuProcess(os.getpid(), "python3", 1), GpuProcess(1, "other", 2)
    free = GpuUsers(listed=(), load=0.0)

    assert module._others(GpuUsers(listed=(ours, theirs)), free).listed == (theirs,)
    # in a container: another number, and the only one that came
    assert module._others(GpuUsers(listed=(theirs,)), free).listed == ()
    two = (theirs, GpuProcess(2, "another", 3))
    assert module._others(GpuUsers(listed=two), free).listed == two
    assert module._others(GpuUsers(), free) == GpuUsers()


def test_a_busy_gpu_beside_the_one_that_is_used_is_no_neighbour(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    two = {"GPU-a": GpuUsers(listed=(), load=0.0), "GPU-b": GpuUsers(listed=(), load=0.97)}
    monkeypatch.setattr(module, "read_gpu_users", lambda root: two)

    def load_of(used: str | None) -> float | None:
        listed = None if used is None else SimpleNamespace(uuid=used)
        monkeypatch.setattr(module, "read_used_gpu", lambda: listed)
        with MachineWatcher(root=tmp_path, interval_s=0.01).attempt() as watch:
            return watch.conditions(rounds_s=0.01).gpu_before.load

    assert load_of("GPU-a") == 0.0
    assert load_of("GPU-b") == 0.97
    assert load_of(None) is None  # which one it is, nobody knows: another finding says so


@pytest.fixture
def burner() -> Iterator[None]:
    """Keep one processor of this machine busy."""
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", "while True: pass"]) as process:
        try:
            yield
        finally:
            process.kill()


@pytest.mark.usefixtures("burner")
def test_a_loaded_core_of_this_machine_is_flagged_every_time() -> None:
    """Ten times: whatever else runs here adds to it."""
    rounds = rounds_of(noisy(60), noisy(60, seed=1))
    for _ in range(10):
        before = read_machine()
        time.sleep(0.3)
        found = check(rounds, baseline="base", load=other_load(before, read_machine()))
        assert any("other programs" in one.what for one in found)
