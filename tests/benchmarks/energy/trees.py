"""Fake sysfs trees, and nothing that a kernel wrote: boards with their sensors, RAPL's zones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

BOARDS = {
    "orin nano": "nvidia,p3768-0000+p3767-0005-super\0nvidia,p3767-0005\0nvidia,tegra234\0",
    "agx orin": "nvidia,p3737-0000+p3701-0005\0nvidia,p3701-0005\0nvidia,tegra234\0",
    "thor": "nvidia,p4071-0000+p3834-0008\0nvidia,p3834-0008\0nvidia,tegra264\0",
    "nano": "nvidia,p3449-0000-b00+p3448-0000-b00\0nvidia,jetson-nano\0nvidia,tegra210\0",
    "unknown": "nvidia,p9999-0000+p9998-0001\0nvidia,tegra999\0",
}
INA3221 = "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3"
SECOND_INA3221 = "sys/bus/i2c/drivers/ina3221/1-0041/hwmon/hwmon4"
INA238 = "sys/bus/i2c/drivers/ina238/2-0044/hwmon/hwmon5"
IIO = "sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0"
POWERCAP = "sys/class/powercap"


def write(root: Path, files: Mapping[str, str | int]) -> Path:
    """Write small files below a folder, and return it."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n" if isinstance(text, int) else text)
    return root


def board(root: Path, name: str) -> Path:
    """Say which board a fake root is of."""
    return write(root, {"proc/device-tree/compatible": BOARDS[name]})


def hwmon(folder: str, *rails: tuple[str, int, int]) -> dict[str, str | int]:
    """Return the files of an INA3221: its channels with label, millivolts, milliamperes."""
    files: dict[str, str | int] = {f"{folder}/name": "ina3221\n"}
    for channel, (label, millivolts, milliamperes) in enumerate(rails, start=1):
        files[f"{folder}/in{channel}_label"] = f"{label}\n"
        files[f"{folder}/in{channel}_input"] = millivolts
        files[f"{folder}/curr{channel}_input"] = milliamperes
    files[f"{folder}/in7_label"] = "sum of shunt voltages\n"
    files[f"{folder}/in7_input"] = 123
    return files


def orin_nano(root: Path) -> Path:
    """An Orin Nano: its input takes 5 V x 2 A."""
    rails = ("VDD_IN", 5000, 2000), ("VDD_CPU_GPU_CV", 5000, 800), ("VDD_SOC", 5000, 300)
    return write(board(root, "orin nano"), hwmon(INA3221, *rails))


def agx_orin(root: Path) -> Path:
    """An AGX Orin of JetPack 5: three rails make the total, one lies within them, one is open."""
    first = ("VDD_GPU_SOC", 20000, 120), ("VDD_CPU_CV", 20000, 40), ("VIN_SYS_5V0", 5000, 700)
    second = ("NC", 0, 0), ("VDDQ_VDD2_1V8AO", 5000, 60), ("NC", 0, 0)
    files = {**hwmon(INA3221, *first), **hwmon(SECOND_INA3221, *second)}
    return write(board(root, "agx orin"), files)


def thor(root: Path) -> Path:
    """A Thor: an INA238 without a label at its input, parts behind it."""
    rails = ("VDD_GPU", 20000, 1000), ("VDD_CPU_SOC_MSS", 20000, 500), ("VIN_SYS_5V0", 5000, 1000)
    files = {**hwmon(INA3221, *rails), f"{INA238}/power1_input": 48_000_000}
    return write(board(root, "thor"), files)


def nano_jetpack4(root: Path) -> Path:
    """A Nano of JetPack 4."""
    rails = ("POM_5V_IN", 3000), ("POM_5V_GPU", 900), ("POM_5V_CPU", 700)
    files: dict[str, str | int] = {}
    for channel, (name, milliwatts) in enumerate(rails):
        files[f"{IIO}/rail_name_{channel}"] = f"{name}\n"
        files[f"{IIO}/in_power{channel}_input"] = milliwatts
    return write(board(root, "nano"), files)


def zone(name: str, label: str, uj: int, wraps_uj: int = 262_143_328_850) -> dict[str, str | int]:
    """Return the files of one of RAPL's zones."""
    folder = f"{POWERCAP}/{name}"
    return {
        f"{folder}/name": f"{label}\n",
        f"{folder}/energy_uj": uj,
        f"{folder}/max_energy_range_uj": wraps_uj,
    }


def server(root: Path) -> Path:
    """A server with two packages and their memory, what they contain, and each package again."""
    files: dict[str, str | int] = {}
    for name, label, uj in (
        ("intel-rapl:0", "package-0", 1_000_000), ("intel-rapl:0:0", "core", 600_000),
        ("intel-rapl:0:1", "dram", 200_000), ("intel-rapl:1", "package-1", 2_000_000),
        ("intel-rapl:1:0", "dram", 300_000), ("intel-rapl:2", "psys", 9_000_000),
        ("intel-rapl-mmio:0", "package-0", 1_000_000),
    ):  # fmt: skip
        files |= zone(name, label, uj)
    return write(root, {**files, f"{POWERCAP}/intel-rapl/enabled": 1})
