"""The energy counters of x86 processors (RAPL), as the kernel shows them below powercap.

A package contains its cores and its graphics ("core", "uncore"); its memory ("dram") is counted
apart. The platform ("psys") contains all of them, and where it exists what it covers is up to the
maker of the machine. So the total is packages and dram. `intel-rapl-mmio` shows the packages again.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from benchmarks.energy.sensor import Missing, Sensor
from benchmarks.energy.sources._machine import Device, Machine, whole_number, word

NAME = "RAPL"
SERVES: frozenset[Device] = frozenset({"cpu"})
_FOLDER = "sys/class/powercap"
_ZONE = re.compile(r"intel-rapl:([0-9]+)(?::([0-9]+))?")
_MEMORY = "dram"
_PARTS = ("core", "uncore", _MEMORY)
_PLATFORMS = ("psys",)
_PACKAGE = re.compile(r"package-[0-9]+(?:-die-[0-9]+)?")
_ALLOW = "sudo chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj"
_INTERVAL_S = 0.05


class _Zone(NamedTuple):
    name: str
    is_counted: bool
    counter: Path
    wraps_at_mj: float


def open_sensor(machine: Machine) -> Sensor | Missing:
    """Return the counters of all packages and of their memory, or why there is none."""
    folder = machine.root / _FOLDER
    try:
        zones = _zones(folder)
    except OSError as error:
        return Missing(source=NAME, reason=f"its files cannot be understood: {error}")
    if not any(zone.is_counted for zone in zones):
        reason = f"/{_FOLDER} shows no package (virtual machines and most containers have none)"
        return Missing(source=NAME, reason=reason)
    total = tuple(index for index, zone in enumerate(zones) if zone.is_counted)
    for index in total:
        try:
            whole_number(zones[index].counter)
        except PermissionError:
            return Missing(source=NAME, reason="its counters may be read by root alone", fix=_ALLOW)
        except OSError as error:
            return Missing(source=NAME, reason=f"{zones[index].name} cannot be read: {error}")
    names = tuple(zone.name for zone in zones)
    has_memory = any(zone.is_counted and zone.name.endswith(_MEMORY) for zone in zones)
    return Sensor(
        source=NAME,
        covers=f"the processor{' and its memory' if has_memory else ''}, without the rest of the "
        "machine",
        rails=names,
        total=total,
        rule=f"total = {' + '.join(names[index] for index in total)}",
        read=_reader(zones),
        quantity="energy",
        interval_s=_INTERVAL_S,
        wraps_at_mj=tuple(zone.wraps_at_mj for zone in zones),
    )


def _zones(folder: Path) -> list[_Zone]:
    """Return all zones.

    Raises:
        OSError: One has no name that is known, or one that counts does not say where it wraps: a
            package that is overlooked would make a total that is too small.
    """
    found: list[_Zone] = []
    packages: dict[str, str] = {}
    for path in sorted(folder.glob("intel-rapl:*"), key=_parents_first):
        place, name = _ZONE.fullmatch(path.name), word(path / "name")
        if place is None:
            continue
        parent = packages.get(place[1], "") if place[2] else ""
        is_package = place[2] is None and _PACKAGE.fullmatch(name) is not None
        if not is_package and name not in (_PARTS if place[2] else _PLATFORMS):
            raise OSError(f"{path.name} is called {name!r}, which is no name that is known")
        if is_package:
            packages[place[1]] = name
        whole = f"{parent}/{name}" if parent else name
        if whole in (zone.name for zone in found):
            raise OSError(f"two zones are called {whole}")
        is_counted = is_package or (bool(parent) and name == _MEMORY)
        wraps = whole_number(path / "max_energy_range_uj") / 1e3 if is_counted else math.inf
        found.append(_Zone(whole, is_counted, path / "energy_uj", wraps))
    return found


def _parents_first(path: Path) -> tuple[int, str]:
    return path.name.count(":"), path.name


def _reader(zones: list[_Zone]) -> Callable[[], list[float]]:
    def read() -> list[float]:
        return [_millijoules(zone) for zone in zones]

    return read


def _millijoules(zone: _Zone) -> float:
    try:
        return whole_number(zone.counter) / 1e3
    except OSError:
        return math.nan
