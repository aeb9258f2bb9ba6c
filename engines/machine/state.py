"""What a machine is set to and busy with: power mode, clocks, swap, other users of its GPU.

Standard library only, because it also runs on boards. Parsers of
what NVIDIA's tools and the kernel print; `engines.machine.snapshot` calls them. What a text does
not say is None or absent, never a guess.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
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

# Whatever ends without the end of its line may be cut off: half a number is a wrong one.
_POWER_MODE = re.compile(r"NV Power Mode:[ \t]*([!-~]+)[ \t]*\r?\n(?:[ \t]*([0-9]+)[ \t]*\r?\n)?")
_POWER_MODEL = re.compile(r"^\s*<\s*POWER_MODEL\s+ID=([0-9]+)\s+NAME=([!-~]+?)\s*>", re.MULTILINE)
_CLOCK_NAME = re.compile(r"(cpu[0-9]+|GPU|EMC):?")
_NUMBER = re.compile(r"[0-9]+")
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
    r"""Return the mode from `nvpmodel -q`; None where it names none to the end of its line.

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
    for line in _whole_lines(text):
        first, *rest = line.split() or [""]
        name = _CLOCK_NAME.fullmatch(first)
        pairs = [word.partition("=")[::2] for word in rest if "=" in word]
        fields = dict(pairs)
        if name is not None and len(fields) == len(pairs):  # else two lines have become one
            found.append(_clock(name[1], fields))
    return tuple(clock for clock in found if clock is not None)


def _clock(name: str, fields: Mapping[str, str]) -> Clock | None:
    is_processor = name.startswith("cpu")
    unit = 1000 if is_processor else 1
    least, most, now = (_number(fields.get(f"{which}Freq")) for which in ("Min", "Max", "Current"))
    if least is None or most is None or (is_processor and fields.get("Online") != "1"):
        return None
    is_held = least == most
    if name == "EMC":  # its limits stay apart when jetson_clocks holds it: an override says so
        if fields.get("FreqOverride") not in ("0", "1"):
            return None
        is_held = fields["FreqOverride"] == "1"
    return Clock(name, least * unit, most * unit, is_held, None if now is None else now * unit)


def _number(word: str | None) -> int | None:
    return int(word) if word is not None and _NUMBER.fullmatch(word) else None


def swaps(text: str) -> tuple[Swap, ...]:
    """Return the swap areas of `/proc/swaps`."""
    found = []
    for row in (line.split() for line in _whole_lines(text)[1:]):
        size, used = (_number(word) for word in row[2:4]) if len(row) == 5 else (None, None)
        if size is not None and used is not None:
            found.append(Swap(row[0], size * _KIB, used * _KIB))
    return tuple(found)


def gpu_processes(text: str) -> tuple[GpuProcess, ...]:
    """Return the rows of `nvidia-smi --query-compute-apps=pid,process_name,used_memory`.

    The format is `csv,noheader,nounits`. Of a program only the file's name is kept.
    """
    found = []
    for line in _whole_lines(text):
        pid, _, rest = line.partition(", ")
        name, _, memory = rest.rpartition(", ")
        number = _number(pid.strip())
        if number is not None and name.strip():
            program = name.strip().rpartition("/")[2]
            found.append(GpuProcess(number, program, _number(memory.strip())))
    return tuple(found)


def _whole_lines(text: str) -> list[str]:
    """Return the lines that have an end."""
    return text.split("\n")[:-1]
