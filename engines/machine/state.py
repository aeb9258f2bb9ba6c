"""What a machine is set to and busy with: power mode, clocks, swap, other users of its GPU.

Standard library only, because it also runs on boards. Parsers of
what NVIDIA's tools and the kernel print; `engines.machine.snapshot` calls them. What a text does
not say is None or absent, never a guess.
"""

from __future__ import annotations

import dataclasses
import re
from typing import NamedTuple

from engines.machine.clocks import Clock

__all__ = [
    "GpuProcess",
    "PowerMode",
    "Swap",
    "clocks",
    "gpu_processes",
    "power_mode",
    "power_modes",
    "swaps",
]

_POWER_MODE = re.compile(r"NV Power Mode:[ \t]*(\S+)[ \t]*(?:\r?\n[ \t]*(\d+)[ \t]*(?:\r?\n|$))?")
_POWER_MODEL = re.compile(r"^\s*<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)\s*>", re.MULTILINE)
_CLOCK = re.compile(
    r"^(cpu\d+|GPU|EMC)\b(?:.*\bOnline=(\d))?.*\bMinFreq=(\d+)\s+MaxFreq=(\d+)"
    r"(?:\s+CurrentFreq=(\d+))?(.*)$",
    re.MULTILINE,
)
_KIB = 1024


class PowerMode(NamedTuple):
    """A power mode; the numbers behind the names differ between releases."""

    name: str
    number: int | None


@dataclasses.dataclass(frozen=True)
class Swap:
    """A swap area."""

    name: str
    size_bytes: int
    used_bytes: int

    @property
    def is_zram(self) -> bool:
        """Whether it is compressed main memory."""
        return self.name.startswith("/dev/zram")


@dataclasses.dataclass(frozen=True)
class GpuProcess:
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
    for name, online, least, most, now, rest in _CLOCK.findall(text):
        if online == "0":
            continue
        unit = 1000 if name.startswith("cpu") else 1
        now_hz = int(now) * unit if now else None
        # The memory's limits stay apart when jetson_clocks holds it: it says so by an override.
        is_held = "FreqOverride=1" in rest if name == "EMC" else least == most
        found.append(Clock(name, int(least) * unit, int(most) * unit, is_held, now_hz))
    return tuple(found)


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
