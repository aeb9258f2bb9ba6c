"""One reading of how a machine is set and does, of a fake board and of machines that tell less."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import pytest

from engines.machine import thermal
from engines.machine.snapshot import (
    GpuUsers,
    Snapshot,
    power_modes,
    read_gpu_users,
    take_snapshot,
)
from engines.machine.state import GpuProcess
from engines.manifest import from_json
from tests.fake_board import OVER_CURRENT, FakeBoard


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeBoard:
    made = FakeBoard(tmp_path)
    made.use(monkeypatch)
    return made


def silent(words: Sequence[str]) -> str:
    return ""


def test_a_board_tells_everything(board: FakeBoard) -> None:
    found = take_snapshot()

    assert found.power_mode == "25W"
    assert {clock.name: clock.now_hz for clock in found.clocks} == {
        "cpu0": 918_000_000, "GPU": 918_000_000,
    }  # fmt: skip
    assert found.governors == ("schedutil",)
    assert found.temperatures_mc == {"cpu-thermal": 51_500, "tj-thermal": 52_000}
    assert found.slows_at_mc == {"cpu-thermal": 99_000, "tj-thermal": 99_000}
    assert found.slowed_by == ()  # the fan that turns slows nothing down
    assert found.events == {"over-current oc1": 0, "over-current oc3": 37}
    assert found.fans == {"pwmfan pwm": 69}
    assert [area.name for area in found.swap or ()] == ["/dev/zram0"]
    assert (found.swapped_pages, found.available_bytes) == (16, 5_000_000 << 10)
    assert found.load_1min == 0.31


def test_a_snapshot_survives_its_json(board: FakeBoard) -> None:
    found = take_snapshot()

    assert from_json(Snapshot, jsonable(found)) == found
    users = GpuUsers(listed=(GpuProcess(1, "a", None),), load=0.5)
    assert from_json(GpuUsers, jsonable(users)) == users


def jsonable(value: object) -> object:
    """Return what `json.loads` gives back."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return jsonable(dataclasses.asdict(value))
    if isinstance(value, dict):
        return {key: jsonable(one) for key, one in value.items()}
    return [jsonable(one) for one in value] if isinstance(value, (list, tuple)) else value


def test_a_machine_that_tells_nothing_is_unknown_everywhere(tmp_path: Path) -> None:
    assert take_snapshot(root=tmp_path, run=silent) == Snapshot()
    assert read_gpu_users(root=tmp_path, run=silent) == {}


def test_the_mode_is_read_from_its_file_where_nvpmodel_does_not_say_it(board: FakeBoard) -> None:
    board.mode("MAXN_SUPER")

    assert take_snapshot(run=silent).power_mode == "MAXN_SUPER"


def test_a_mode_that_the_board_does_not_list_has_no_name(board: FakeBoard) -> None:
    board.write("var/lib/nvpmodel/status", "pmode:0009\n")

    assert take_snapshot(run=silent).power_mode is None
    assert [mode.name for mode in power_modes(board.root)] == ["15W", "25W", "MAXN_SUPER", "7W"]


def test_the_memory_s_clock_is_read_where_root_may(board: FakeBoard) -> None:
    folder = "sys/kernel/debug/bpmp/debug/clk/emc"
    limits = {"rate": 3_199_000_000, "min_rate": 204_000_000, "max_rate": 3_199_000_000}
    for name, value in limits.items():
        board.write(f"{folder}/{name}", f"{value}\n")
    board.write(f"{folder}/mrq_rate_locked", "1\n")

    found = {clock.name: clock for clock in take_snapshot().clocks}

    assert found["EMC"].now_hz == 3_199_000_000
    assert found["EMC"].is_held  # though its limits lie apart


def test_sensors_of_blocks_that_are_off_are_left_out(board: FakeBoard) -> None:
    board.write("sys/class/thermal/thermal_zone0/temp", "-256000\n")
    board.write("sys/class/thermal/thermal_zone1/temp", "unavailable\n")

    assert take_snapshot().temperatures_mc == {}


def test_two_sensors_of_one_name_are_told_apart(board: FakeBoard) -> None:
    board.write("sys/class/thermal/thermal_zone1/type", "cpu-thermal\n")

    assert list(take_snapshot().temperatures_mc) == ["cpu-thermal", "cpu-thermal 2"]


def test_over_current_that_lowers_no_clock_is_counted_apart(board: FakeBoard) -> None:
    board.write(f"{OVER_CURRENT}/oc1_throt_en", "0\n")

    slows = {counter.name: counter.slows for counter in thermal.counters(board.root)}

    assert slows == {"over-current oc1": False, "over-current oc3": True}


@pytest.mark.parametrize(
    ("kind", "slows"),
    [
        ("gpu-throttle-alert", True),
        ("hot-surface-alert", True),
        ("devfreq-17000000.gpu", True),
        ("thermal-cpufreq-0", True),
        ("cpufreq-cpu0", True),
        ("gpu-balanced", True),
        ("Processor", True),
        ("pwm-fan", False),
        ("Fan", False),
        ("LCD", False),
        ("TCC Offset", False),
        ("iwlwifi_1", False),
    ],
)
def test_only_what_lowers_clocks_slows_down(kind: str, slows: bool, board: FakeBoard) -> None:
    board.write("sys/class/thermal/cooling_device1/type", f"{kind}\n")
    board.write("sys/class/thermal/cooling_device1/cur_state", "1\n")

    assert take_snapshot().slowed_by == ((kind,) if slows else ())


def test_an_x86_machine_tells_its_throttling_and_its_own_sensor(tmp_path: Path) -> None:
    def write(name: str, text: str) -> None:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    for core, count in ((0, 3), (1, 4), (10, 5)):
        folder = f"sys/devices/system/cpu/cpu{core}/thermal_throttle"
        write(f"{folder}/core_throttle_count", f"{count}\n")
        write(f"{folder}/package_throttle_count", "9\n")
    write("sys/class/hwmon/hwmon0/name", "nvme\n")
    write("sys/class/hwmon/hwmon0/temp1_input", "35000\n")
    write("sys/class/hwmon/hwmon1/name", "coretemp\n")
    write("sys/class/hwmon/hwmon1/temp1_input", "61000\n")
    write("sys/fs/cgroup/cpu.stat", "usage_usec 1\nnr_throttled 2\nthrottled_usec 77\n")

    found = take_snapshot(root=tmp_path, run=silent)

    assert found.events == {"CPU core too warm": 12, "CPU package too warm": 27}
    assert found.temperatures_mc == {"coretemp": 61_000}
    assert found.quota_us == 77


def test_a_jetson_tells_how_busy_its_gpu_is_but_not_with_whom(board: FakeBoard) -> None:
    board.write("sys/devices/platform/17000000.gpu/load", "637\n")

    assert read_gpu_users() == {"": GpuUsers(listed=None, load=0.637)}


def test_a_driver_lists_who_works_on_each_of_its_gpus(tmp_path: Path) -> None:
    def smi(words: Sequence[str]) -> str:
        if "utilization" in words[1]:
            return "GPU-a, 3\nGPU-b, 41\nGPU-c, [N/A]\n"
        return "GPU-b, 4242, /usr/bin/python3, 512\nGPU-b, 7, x, [N/A]\nGPU-c, 9, y, 1\n"

    assert read_gpu_users(root=tmp_path, run=smi) == {
        "GPU-a": GpuUsers(listed=(), load=0.03),
        "GPU-b": GpuUsers(listed=(GpuProcess(4242, "python3", 512), GpuProcess(7, "x", None)),
                          load=0.41),
        "GPU-c": GpuUsers(listed=(GpuProcess(9, "y", 1),), load=None),
    }  # fmt: skip
