"""How warm a machine is, what slows it down for that, and what has slowed it down so far.

Standard library only, because it also runs on boards.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

from engines.machine.sources import number_of, text_of

_CHIPS = ("coretemp", "k10temp", "zenpower", "cpu_thermal")
"""Names of hwmon's drivers for a CPU's own temperature."""
_TRIPS = 12  # a zone has fewer trip points
_SLOWS = re.compile(
    r"Processor|intel_powerclamp|.*-(alert|balanced)|(thermal-)?(cpufreq|devfreq)-.*", re.IGNORECASE
)
"""Kinds of cooling devices that lower clocks. Others have a state above 0 that slows nothing down:
fans, the brightness of a screen, the offset from which a processor's own brake counts."""
_OVER_CURRENT = re.compile(r"oc\d+_event_cnt")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Zone:
    """A temperature sensor.

    Attributes:
        name: "tj-thermal", "x86_pkg_temp".
        file: Where it tells thousandths of a degree Celsius.
        slows_at_mc: From which temperature on the kernel slows something down; None where it
            never does because of this one.
    """

    name: str
    file: Path
    slows_at_mc: int | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Counter:
    """Events that are counted since the machine started.

    Attributes:
        name: What they are, in words.
        files: Where they are counted; the counts are added.
        slows: Whether such an event lowers clocks.
    """

    name: str
    files: tuple[Path, ...]
    slows: bool = True

    def read(self) -> int | None:
        """Return how many there were; None where nothing tells."""
        found = [count for count in map(number_of, self.files) if count is not None]
        return sum(found) if found else None


def zones(root: Path) -> tuple[Zone, ...]:
    """Return the sensors of a machine; those of its CPU alone where no zones are defined.

    Args:
        root: Where `sys` is.
    """
    found: dict[str, Zone] = {}
    for folder in _numbered(root / "sys/class/thermal", "thermal_zone"):
        name = _unused(text_of(folder / "type").strip() or folder.name, found)
        found[name] = Zone(name=name, file=folder / "temp", slows_at_mc=_slows_at(folder))
    for folder in [] if found else _numbered(root / "sys/class/hwmon", "hwmon"):
        chip = text_of(folder / "name").strip()
        if chip in _CHIPS:
            name = _unused(chip, found)
            found[name] = Zone(name=name, file=folder / "temp1_input", slows_at_mc=None)
    return tuple(found.values())


def coolers(root: Path) -> dict[str, Path]:
    """Return what can slow the machine down when it is warm: where each tells whether it does.

    Args:
        root: Where `sys` is.
    """
    found: dict[str, Path] = {}
    for folder in _numbered(root / "sys/class/thermal", "cooling_device"):
        kind = text_of(folder / "type").strip()
        if _SLOWS.fullmatch(kind):
            found[_unused(kind, found)] = folder / "cur_state"
    return found


def fans(root: Path) -> dict[str, int]:
    """Return how fans turn: their drive from 0 to 255, and their turns a minute.

    Args:
        root: Where `sys` is.
    """
    found = {}
    for folder in _numbered(root / "sys/class/hwmon", "hwmon"):
        chip = text_of(folder / "name").strip() or folder.name
        for file, what in (("pwm1", "pwm"), ("fan1_input", "rpm"), ("rpm", "rpm")):
            value = number_of(folder / file)
            if value is not None:
                found[f"{chip} {what}"] = value
    value = number_of(root / "sys/devices/pwm-fan/cur_pwm")
    return found if value is None else {**found, "pwm-fan pwm": value}


def counters(root: Path) -> tuple[Counter, ...]:
    """Return what counts how often the machine was slowed down.

    Args:
        root: Where `sys` is.
    """
    found = []
    for folder in _numbered(root / "sys/class/hwmon", "hwmon"):
        for file in sorted(folder.glob("oc*_event_cnt")):
            if _OVER_CURRENT.fullmatch(file.name):
                channel = file.name.partition("_")[0]
                slows = number_of(folder / f"{channel}_throt_en") != 0
                found.append(Counter(name=f"over-current {channel}", files=(file,), slows=slows))
    processors = _numbered(root / "sys/devices/system/cpu", "cpu")
    for kind in ("core", "package"):
        files = (path / f"thermal_throttle/{kind}_throttle_count" for path in processors)
        present = tuple(file for file in files if number_of(file) is not None)
        if present:
            found.append(Counter(name=f"CPU {kind} too warm", files=present))
    return tuple(found)


def _slows_at(zone: Path) -> int | None:
    limits = []
    for index in range(_TRIPS):
        kind = text_of(zone / f"trip_point_{index}_type").strip()
        if not kind:
            break
        limit = number_of(zone / f"trip_point_{index}_temp")
        if kind in ("passive", "hot") and limit is not None and limit > 0:
            limits.append(limit)
    return min(limits, default=None)


def _numbered(folder: Path, stem: str) -> list[Path]:
    """Return `stem0`, `stem1` and so on, by their numbers."""
    found = [path for path in folder.glob(f"{stem}*") if path.name[len(stem) :].isdigit()]
    return sorted(found, key=lambda path: int(path.name[len(stem) :]))


def _unused(name: str, taken: dict[str, object] | dict[str, Zone] | dict[str, Path]) -> str:
    """Return a name that is not taken: a second "acpitz" is "acpitz 2"."""
    names: Iterator[str] = (f"{name} {number}" for number in range(2, 1000))
    return name if name not in taken else next(one for one in names if one not in taken)
