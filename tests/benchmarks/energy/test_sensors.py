"""Sensors of every kind in fake trees and behind fake commands: which rails count, and why not."""

from __future__ import annotations

import math
import os
import random
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.conditions.gpu_state import Gpu, GpuState, Listed
from benchmarks.energy import find
from benchmarks.energy.find import find_sensor
from benchmarks.energy.meter import require_any_sensor
from benchmarks.energy.sensor import Missing, Sensor, total_of
from benchmarks.energy.sources import nvidia_smi, nvml
from engines.errors import MachineError
from engines.machine import sources
from engines.machine.tegrastats import parse
from tests.benchmarks.energy import trees
from tests.engines.machine import test_tegrastats as recorded


@pytest.fixture(autouse=True)
def _no_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    """No command of this machine takes part."""
    monkeypatch.setattr(sources, "_SBIN", ())
    monkeypatch.setenv("PATH", "/nonexistent")


def found(root: Path, device: Any = "gpu") -> Sensor:
    sensor = find_sensor([device], root=root)
    assert isinstance(sensor, Sensor), sensor
    return sensor


def reasons(root: Path, *devices: Any) -> dict[str, str]:
    missing = find_sensor(devices or ("cpu",), root=root)
    assert not isinstance(missing, Sensor), missing
    return {one.source: one.reason for one in missing}


def total_mw(sensor: Sensor) -> float:
    return total_of(sensor.read(), sensor.total)


@pytest.mark.parametrize(
    ("tree", "total", "milliwatts", "others"),
    [
        (trees.orin_nano, ("VDD_IN",), 10_000, {"VDD_CPU_GPU_CV": 4000, "VDD_SOC": 1500}),
        (
            trees.agx_orin,
            ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),
            2400 + 800 + 3500,
            {"VDDQ_VDD2_1V8AO": 300},
        ),
        (
            trees.thor,
            ("VIN",),
            48_000,
            {"VDD_GPU": 20_000, "VDD_CPU_SOC_MSS": 10_000, "VIN_SYS_5V0": 5000},
        ),
        (trees.nano_jetpack4, ("POM_5V_IN",), 3000, {"POM_5V_GPU": 900, "POM_5V_CPU": 700}),
    ],
)
@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_the_total_of_a_board_is_what_its_rule_says_and_no_part_is_added(
    tree: Callable[[Path], Path],
    total: tuple[str, ...],
    milliwatts: int,
    others: dict[str, int],
    device: str,
    tmp_path: Path,
) -> None:
    sensor = found(tree(tmp_path), device)

    assert sensor.source == "INA sensors"
    assert set(sensor.total_names()) == set(total)
    assert total_mw(sensor) == pytest.approx(milliwatts)
    by_name = dict(zip(sensor.rails, sensor.read(), strict=True))
    assert {name: by_name[name] for name in others} == pytest.approx(others)
    assert "NC" not in sensor.rails
    assert sensor.rule == f"total = {' + '.join(total)}"


def test_a_missing_rail_gives_no_total_and_says_which(tmp_path: Path) -> None:
    root = trees.agx_orin(tmp_path)
    (root / trees.INA3221 / "in3_label").unlink()

    reason = reasons(root)["INA sensors"]

    assert "VIN_SYS_5V0 is missing" in reason
    assert "found: VDD_GPU_SOC, VDD_CPU_CV, VDDQ_VDD2_1V8AO" in reason


def test_an_unknown_board_gives_no_total(tmp_path: Path) -> None:
    rails = trees.hwmon(trees.INA3221, ("VDD_IN", 5000, 2000))
    root = trees.write(trees.board(tmp_path, "unknown"), rails)

    assert "not known: no module of p9999-0000, p9998-0001" in reasons(root)["INA sensors"]


def test_two_rails_of_one_name_give_no_total(tmp_path: Path) -> None:
    root = trees.orin_nano(tmp_path)
    trees.write(root, trees.hwmon(trees.SECOND_INA3221, ("VDD_IN", 5000, 1)))

    assert "several sensors are called VDD_IN" in reasons(root)["INA sensors"]


def test_two_unnamed_sensors_of_thor_are_not_taken_for_its_input(tmp_path: Path) -> None:
    root = trees.thor(tmp_path)
    trees.write(root, {f"{trees.INA238.replace('2-0044', '2-0045')}/power1_input": 5})

    assert "VIN is missing; found: VDD_GPU" in reasons(root)["INA sensors"]
    trees.write(root, {f"{trees.INA238}/label": "VIN\n"})
    assert total_mw(found(root)) == 48_000


def test_a_rail_that_cannot_be_read_now_is_no_zero(tmp_path: Path) -> None:
    root = trees.orin_nano(tmp_path)
    sensor = found(root)
    (root / trees.INA3221 / "curr1_input").write_text("")

    assert math.isnan(total_mw(sensor))
    assert reasons(root)["INA sensors"] == "VDD_IN cannot be read"


def test_a_board_without_sysfs_is_read_by_tegrastats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [recorded.NANO_6, recorded.NANO_6_USER, "RAM 1/2MB (lfb 1x1MB) VDD_IN 5mW/5"]
    command(tmp_path / "bin", "tegrastats", lines, monkeypatch, ends=True)

    sensor = found(trees.board(tmp_path, "orin nano"))

    assert sensor.source == "tegrastats"
    assert sensor.interval_s == 0
    assert total_mw(sensor) == 4824
    assert math.isnan(total_mw(sensor))  # the torn line
    with pytest.raises(OSError, match="tegrastats ended"):
        sensor.read()
    sensor.close()


def test_tegrastats_of_another_board_gives_no_total(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command(tmp_path / "bin", "tegrastats", [recorded.XAVIER], monkeypatch)

    told = reasons(trees.board(tmp_path, "orin nano"))

    assert "VDD_IN is missing; found: GPU, CPU, SOC" in told["tegrastats"]


def command(
    folder: Path,
    name: str,
    lines: list[str],
    monkeypatch: pytest.MonkeyPatch,
    *,
    ends: bool = False,
) -> None:
    """Put a fake command on PATH that prints these lines and waits."""
    folder.mkdir(exist_ok=True)
    program = folder / name
    wait = "" if ends else "\nimport time\ntime.sleep(60)"
    program.write_text(f"#!{sys.executable}\nprint({chr(10).join(lines)!r}, flush=True){wait}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


# RAPL


def test_packages_and_their_memory_make_the_total_and_nothing_twice(tmp_path: Path) -> None:
    sensor = found(trees.server(tmp_path), "cpu")

    assert sensor.source == "RAPL"
    assert set(sensor.total_names()) == {
        "package-0", "package-0/dram", "package-1", "package-1/dram",
    }  # fmt: skip
    assert total_mw(sensor) == pytest.approx(1000 + 200 + 2000 + 300)  # millijoules
    assert set(sensor.rails) - set(sensor.total_names()) == {"package-0/core", "psys"}
    assert sensor.quantity == "energy"
    assert sensor.wraps_at_mj[sensor.total[0]] == pytest.approx(262_143_328.85)
    assert "processor and its memory" in sensor.covers


def test_counters_that_only_root_may_read_are_said_with_the_one_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tests run as root, whom no mode stops."""
    root = trees.server(tmp_path)
    opened = os.open

    def refuse(path: Any, *arguments: Any, **options: Any) -> int:
        if str(path).endswith("energy_uj"):
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *arguments, **options)

    monkeypatch.setattr(os, "open", refuse)
    missing = find_sensor(["cpu"], root=root)
    assert not isinstance(missing, Sensor)
    rapl = next(one for one in missing if one.source == "RAPL")

    assert rapl.reason == "its counters may be read by root alone"
    assert rapl.fix == "sudo chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj"


def test_a_machine_without_counters_says_so(tmp_path: Path) -> None:
    assert "virtual machines" in reasons(tmp_path)["RAPL"]


def test_two_packages_of_one_name_give_no_total(tmp_path: Path) -> None:
    root = trees.server(tmp_path)
    (root / trees.POWERCAP / "intel-rapl:1/name").write_text("package-0\n")

    assert "two zones are called package-0" in reasons(root)["RAPL"]


def test_work_on_both_devices_needs_a_sensor_of_both(tmp_path: Path) -> None:
    told = reasons(trees.server(tmp_path), "cpu", "gpu")

    assert told["RAPL"] == "it does not measure the GPU, where work is done"
    assert told["NVML"] == "it does not measure the CPU, where work is done"
    assert total_mw(found(trees.orin_nano(tmp_path))) == 10_000


# A GPU

LISTED = Listed(
    bus="00000000:18:00.0",
    uuid="GPU-1",
    gpu=Gpu(name="A GPU", driver="1"),
    state=GpuState(
        sm_mhz=None, sm_max_mhz=None, memory_mhz=None, memory_max_mhz=None, power_w=None,
        temperature_c=None, reasons=None,
    ),
)  # fmt: skip


class FakeNvml(types.ModuleType):
    """Answers as nvidia-ml-py does: with a number, or by raising its own class."""

    class NVMLError(Exception):
        pass

    def __init__(self, *, starts: bool = True, mig: int | None = None, **numbers: int) -> None:
        super().__init__("pynvml")
        self.starts, self.mig, self.numbers = starts, mig, numbers
        self.open = 0

    def nvmlInit(self) -> None:  # noqa: N802 - the name in NVML
        if not self.starts:
            raise self.NVMLError("Driver Not Loaded")
        self.open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.open -= 1

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        assert uuid == "GPU-1"
        return "handle"

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 2

    def nvmlDeviceGetMigMode(self, handle: str) -> tuple[int, int]:  # noqa: N802
        if self.mig is None:
            raise self.NVMLError("Not Supported")
        return self.mig, self.mig

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:  # noqa: N802
        return self._number("energy")

    def nvmlDeviceGetPowerUsage(self, handle: str) -> int:  # noqa: N802
        return self._number("power")

    def _number(self, name: str) -> int:
        if name not in self.numbers:
            raise self.NVMLError("Not Supported")
        return self.numbers[name]


@pytest.fixture
def use_nvml(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeNvml]:
    def use(listed: Listed | None = LISTED, **answers: Any) -> FakeNvml:
        fake = FakeNvml(**answers)
        monkeypatch.setitem(sys.modules, "pynvml", fake)
        monkeypatch.setattr(nvml, "read_used_gpu", lambda: listed)
        return fake

    return use


def test_nvml_gives_its_energy_counter_where_there_is_one(
    use_nvml: Callable[..., FakeNvml], tmp_path: Path
) -> None:
    fake = use_nvml(energy=123_456, power=250_000)
    sensor = found(tmp_path)

    assert (sensor.source, sensor.quantity, sensor.read()) == ("NVML", "energy", [123_456.0])
    assert sensor.covers.startswith("the GPU's board, without")
    sensor.close()
    assert fake.open == 0


def test_nvml_gives_samples_of_power_where_there_is_no_counter(
    use_nvml: Callable[..., FakeNvml], tmp_path: Path
) -> None:
    use_nvml(power=250_000)
    sensor = found(tmp_path)

    assert (sensor.quantity, sensor.read(), sensor.averaging_s) == ("power", [250_000.0], 1.0)


def test_nvml_that_starts_and_supports_nothing_is_no_sensor(
    use_nvml: Callable[..., FakeNvml], tmp_path: Path
) -> None:
    """As on a Jetson."""
    fake = use_nvml()

    told = reasons(trees.board(tmp_path, "orin nano"), "gpu")

    assert told["NVML"] == (
        "NVML starts, but gives no number (energy: Not Supported; power: Not Supported)"
    )
    assert fake.open == 0


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ({"starts": False}, "NVML does not start: Driver Not Loaded"),
        ({"mig": 1, "energy": 5}, "cut into MIG slices"),
        ({"listed": None, "energy": 5}, "which of several GPUs"),
    ],
)
def test_what_nvml_cannot_say_is_no_number(
    answers: dict[str, Any], words: str, use_nvml: Callable[..., FakeNvml], tmp_path: Path
) -> None:
    use_nvml(**answers)

    assert words in reasons(tmp_path, "gpu")["NVML"]


def test_a_gpu_that_is_lost_is_no_number(use_nvml: Callable[..., FakeNvml], tmp_path: Path) -> None:
    fake = use_nvml(energy=1)
    sensor = found(tmp_path)
    del fake.numbers["energy"]

    with pytest.raises(OSError, match="NVML: Not Supported"):
        sensor.read()


SMI = """\
#!{python}
import sys, time
words = " ".join(sys.argv[1:])
assert "--id=GPU-1" in words and "nounits" in words
field = words.partition("--query-gpu=")[2].split()[0]
answer = {answers}.get(field, 'Field "%s" is not a valid field to query.' % field)
print(answer, flush=True)
while "--loop-ms=100" in words:
    print(answer, flush=True)
    time.sleep(0.1)
"""


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ({"power.draw.instant": "312.45", "power.draw": "300.00"}, ("power.draw.instant", 312_450)),
        ({"power.draw": "300.00", "mig.mode.current": "[N/A]"}, ("power.draw", 300_000)),
        ({"power.draw.instant": "[N/A]", "power.draw": "72.5"}, ("power.draw", 72_500)),
        ({"power.draw.instant": "[N/A]", "power.draw": "[Not Supported]"}, "it gives no power"),
        ({"power.draw": "nan"}, "it gives no power"),
        ({"power.draw": "300.0", "mig.mode.current": "Enabled"}, "cut into MIG slices"),
    ],
)
def test_nvidia_smi_stands_in_for_nvml(
    answers: dict[str, str], expected: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "nvidia-smi").write_text(SMI.format(python=sys.executable, answers=answers))
    (folder / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(nvidia_smi, "read_used_gpu", lambda: LISTED)
    monkeypatch.setitem(sys.modules, "pynvml", None)

    if isinstance(expected, str):
        told = reasons(tmp_path, "gpu")
        assert told["NVML"] == "nvidia-ml-py is not installed"
        assert expected in told["nvidia-smi"]
        return
    sensor = found(tmp_path)
    assert sensor.source == "nvidia-smi"
    assert expected[0] in sensor.rule
    assert sensor.read() == [expected[1]]
    sensor.close()


def test_a_machine_without_any_sensor_is_refused_with_every_reason(tmp_path: Path) -> None:
    def nothing(devices: Any) -> Any:
        return find_sensor(devices, root=tmp_path)

    with pytest.raises(MachineError) as caught:
        require_any_sensor(nothing)

    for name in ("NVML", "nvidia-smi", "RAPL"):
        assert f"{name}: " in caught.value.what
    assert "Jetson" not in caught.value.what
    assert "leave --energy out" in caught.value.fix


def test_what_is_really_here_is_a_number_or_a_reason() -> None:
    for device in ("cpu", "gpu"):
        sensor: Any = find.find_sensor([device])
        if isinstance(sensor, Sensor):
            assert not math.isnan(total_of(sensor.read(), sensor.total))
            sensor.close()
        else:
            assert all(isinstance(one, Missing) and one.reason for one in sensor)


# Thousands of broken trees

TREES = (trees.orin_nano, trees.agx_orin, trees.thor, trees.nano_jetpack4, trees.server)
TOTALS = (10_000.0, 6_700.0, 48_000.0, 3_000.0, 3_500.0)


def damage(path: Path, generator: random.Random) -> None:
    """Break one file as files break."""
    kind, text = generator.randrange(9), path.read_text()
    if kind == 0:
        path.unlink()
    elif kind == 1:
        path.write_text("")
    elif kind == 2:
        path.write_text(generator.choice(["abc", "0x10", "1e3", "nan", "1 2", "--5", "\0"]))
    elif kind == 3:
        path.write_bytes(bytes(generator.randrange(256) for _ in range(20)))
    elif kind == 4:
        path.write_text("9" * 400)
    elif kind == 5:
        path.unlink()
        path.mkdir()
    elif kind == 6:
        path.write_text("٣٤" + text)
    elif kind == 7:
        path.rename(path.with_name(f"{path.name}_old"))
    else:
        path.unlink()
        path.symlink_to("nowhere")


def repair(path: Path, text: str) -> None:
    if path.is_dir():
        path.rmdir()
    path.unlink(missing_ok=True)
    path.with_name(f"{path.name}_old").unlink(missing_ok=True)
    path.write_text(text)


@pytest.mark.parametrize("index", range(len(TREES)), ids=lambda index: TREES[index].__name__)
def test_a_broken_tree_gives_the_right_total_or_none(index: int, tmp_path: Path) -> None:
    generator = random.Random(index)
    root = TREES[index](tmp_path)
    whole = {path: path.read_text() for path in sorted(tmp_path.rglob("*")) if path.is_file()}
    right = 0
    for _ in range(150):
        broken = generator.sample(list(whole), generator.randint(1, 3))
        for path in broken:
            damage(path, generator)
        sensor = find_sensor(["cpu"], root=root)
        if isinstance(sensor, Sensor):
            value = total_mw(sensor)
            assert math.isnan(value) or value == pytest.approx(TOTALS[index]), broken
            right += not math.isnan(value)
        else:
            assert all(one.reason for one in sensor)
        for path in broken:
            repair(path, whole[path])
    assert right > 10


def test_lines_of_tegrastats_give_the_right_total_or_none() -> None:
    """The mutated lines of its own tests, with the rule of the board on top."""
    generator = random.Random(3)
    for _ in range(400):
        line = recorded.mutated(recorded.NANO_6, generator)
        rails = {rail.name: rail.now_mw for rail in parse(line).rails}
        if "VDD_IN" in rails:
            assert f"VDD_IN {rails['VDD_IN']}mW/" in line.replace(" 0", " ")
