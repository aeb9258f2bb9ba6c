"""What a machine is set to and busy with: power mode, clocks, swap, other users of its GPU.

Standard library only, because it also runs on boards. Parsers of
what NVIDIA's tools print, and readers of the same facts where the kernel shows them to everybody.
What a text does not say is None or absent, never a guess.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

__all__ = [
    "Clock",
    "GpuProcess",
    "PowerMode",
    "Swap",
    "are_held",
    "clocks",
    "gpu_processes",
    "power_mode",
    "power_modes",
    "read_clocks",
    "swaps",
]

_POWER_MODE = re.compile(r"NV Power Mode:[ \t]*(\S+)[ \t]*(?:\r?\n[ \t]*(\d+)[ \t]*(?:\r?\n|$))?")
_POWER_MODEL = re.compile(r"^\s*<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)\s*>", re.MULTILINE)
_CLOCK = re.compile(
    r"^(cpu\d+|GPU|EMC)\b(?:.*\bOnline=(\d))?.*\bMinFreq=(\d+)\s+MaxFreq=(\d+)(.*)$", re.MULTILINE
)
_GPU_FOLDER = re.compile(r"\.(gpu|ga10b|gv11b|gp10b|gm20b)$|^gpu-gpc-\d+$")
_KIB = 1024


class PowerMode(NamedTuple):
    """A power mode; the numbers behind the names differ between releases."""

    name: str
    number: int | None


class Clock(NamedTuple):
    """Between which frequencies the governor may move a clock.

    Attributes:
        name: "cpu0", "GPU", "EMC" (the memory's).
        least_hz: Lower limit.
        most_hz: Upper limit.
        is_held: Whether it stays where it is.
    """

    name: str
    least_hz: int
    most_hz: int
    is_held: bool


class Swap(NamedTuple):
    """A swap area."""

    name: str
    size_bytes: int
    used_bytes: int

    @property
    def is_zram(self) -> bool:
        """Whether it is compressed main memory."""
        return self.name.startswith("/dev/zram")


class GpuProcess(NamedTuple):
    """A process that the driver lists on a GPU."""

    pid: int
    name: str
    memory_mib: int | None


def power_mode(text: str) -> PowerMode | None:
    r"""Return the mode from `nvpmodel -q`; None where it names none.

    >>> power_mode("NV Power Mode: MAXN_SUPER\n2\n")
    PowerMode(name='MAXN_SUPER', number=2)
    """
    found = _POWER_MODE.search(text)
    return PowerMode(found[1], int(found[2]) if found[2] else None) if found else None


def power_modes(text: str) -> dict[str, int]:
    """Return the modes of `/etc/nvpmodel.conf` with the numbers that `nvpmodel -m` takes."""
    return {name: int(number) for number, name in _POWER_MODEL.findall(text)}


def clocks(text: str) -> tuple[Clock, ...]:
    """Return the clocks from `jetson_clocks --show`; processors that are off are left out."""
    found = []
    for name, online, least, most, rest in _CLOCK.findall(text):
        if online == "0":
            continue
        unit = 1000 if name.startswith("cpu") else 1
        # The memory's limits stay apart when jetson_clocks holds it: it says so by an override.
        is_held = "FreqOverride=1" in rest if name == "EMC" else least == most
        found.append(Clock(name, int(least) * unit, int(most) * unit, is_held))
    return tuple(found)


def read_clocks(root: Path = Path("/")) -> tuple[Clock, ...]:
    """Return the clocks of a Jetson's processors and GPU; the memory's only root may read.

    Args:
        root: Where `sys` is; another folder in tests.
    """
    policies = sorted((root / "sys/devices/system/cpu/cpufreq").glob("policy*"))
    places = [
        (f"cpu{path.name[6:]}", path / "scaling_min_freq", path / "scaling_max_freq", 1000)
        for path in policies
    ]
    places += [
        ("GPU", path / "min_freq", path / "max_freq", 1)
        for path in sorted((root / "sys/class/devfreq").glob("*"))
        if _GPU_FOLDER.search(path.name)
    ]
    found = []
    for name, low, high, unit in places:
        least, most = _number(low), _number(high)
        if least is not None and most is not None:
            found.append(Clock(name, least * unit, most * unit, least == most))
    return tuple(found)


def are_held(found: tuple[Clock, ...]) -> bool | None:
    """Return whether all clocks stay where they are; None where the GPU's is not among them."""
    if not any(clock.name == "GPU" for clock in found):
        return None
    return all(clock.is_held for clock in found)


def swaps(text: str) -> tuple[Swap, ...]:
    """Return the swap areas of `/proc/swaps`."""
    rows = (line.split() for line in text.splitlines()[1:])
    return tuple(
        Swap(row[0], int(row[-3]) * _KIB, int(row[-2]) * _KIB)
        for row in rows
        if len(row) >= 5 and row[-3].isdigit() and row[-2].isdigit()
    )


def gpu_processes(text: str) -> tuple[GpuProcess, ...]:
    """Return the rows of `nvidia-smi --query-compute-apps=pid,process_name,used_memory`.

    The format is `csv,noheader,nounits`. Of a program only the file's name is kept.
    """
    found = []
    for line in text.splitlines():
        pid, _, rest = line.partition(",")
        name, _, memory = rest.rpartition(",")
        if pid.strip().isdigit() and name.strip():
            size = memory.strip()
            program = name.strip().rpartition("/")[2]
            found.append(GpuProcess(int(pid), program, int(size) if size.isdigit() else None))
    return tuple(found)


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text("ascii"))
    except (OSError, ValueError):
        return None
