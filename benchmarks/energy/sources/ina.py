"""A Jetson's INA3221 and INA238 sensors in sysfs, which everybody may read.

JetPack 5 and newer show an INA3221 as hwmon (volts and amperes of each channel), JetPack 4 as iio
(watts). Thor measures the module's input with an INA238.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from benchmarks.energy.rails import indices_of_total
from benchmarks.energy.sensor import Missing, Sensor, total_of
from benchmarks.energy.sources._machine import Device, Machine, whole_number, word

NAME = "INA sensors"
SERVES: frozenset[Device] = frozenset({"cpu", "gpu"})
_DRIVERS = "sys/bus/i2c/drivers"
_HWMON_LABEL = re.compile(r"in([1-3])_label")
"""The chip has three channels; in4 to in6 are shunt voltages, in7 is their sum."""
_IIO_NAME = re.compile(r"rail_name_([0-2])")
_NOT_CONNECTED = "NC"
_INTERVAL_S = 0.1
_SHORTEST_S, _LONGEST_S = 0.05, 1.0
_UNNAMED = "VIN"
"""What tegrastats calls the INA238 of Thor, where the chip has no label of its own."""


class _Channel(NamedTuple):
    name: str
    read_mw: Callable[[], float]


def open_sensor(machine: Machine) -> Sensor | Missing:
    """Return the board's sensors with its total, or why there is none."""
    if machine.board is None:
        return Missing(source=NAME, reason="this is no Jetson", is_absent=False)
    drivers = machine.root / _DRIVERS
    channels = [*_hwmon(drivers), *_iio(drivers), *_ina238(drivers)]
    if not channels:
        reason = f"no INA3221 or INA238 has a driver below /{_DRIVERS}"
        return Missing(source=NAME, reason=reason)
    if not machine.rails or isinstance(machine.rails, str):
        return Missing(source=NAME, reason=str(machine.rails or "no rule for its total is known"))
    names = tuple(channel.name for channel in channels)
    total = indices_of_total(machine.rails, names)
    if isinstance(total, str):
        return Missing(source=NAME, reason=total)

    def read() -> list[float]:
        return [_milliwatts(channel) for channel in channels]

    values = read()
    if math.isnan(total_of(values, total)):
        dead = [names[index] for index in total if math.isnan(values[index])]
        return Missing(source=NAME, reason=f"{', '.join(dead)} cannot be read")
    return Sensor(
        source=NAME,
        covers="the whole module",
        rails=names,
        total=total,
        rule=machine.rails.rule,
        read=read,
        interval_s=_interval_s(drivers),
    )


def _milliwatts(channel: _Channel) -> float:
    try:
        return channel.read_mw()
    except OSError:  # a rail whose domain is off now
        return math.nan


def _hwmon(drivers: Path) -> Iterator[_Channel]:
    for label in sorted(drivers.glob("ina3221/*/hwmon/hwmon*/in*_label")):
        found, name = _HWMON_LABEL.fullmatch(label.name), word(label)
        if found and name and name != _NOT_CONNECTED:
            volts = label.with_name(f"in{found[1]}_input")
            amperes = label.with_name(f"curr{found[1]}_input")
            yield _Channel(name, _product_of(volts, amperes))


def _product_of(millivolts: Path, milliamperes: Path) -> Callable[[], float]:
    return lambda: whole_number(millivolts) * whole_number(milliamperes) / 1e3


def _iio(drivers: Path) -> Iterator[_Channel]:
    for label in sorted(drivers.glob("ina3221x/*/iio:device*/rail_name_*")):
        found, name = _IIO_NAME.fullmatch(label.name), word(label)
        if found and name and name != _NOT_CONNECTED:
            yield _Channel(name, _scaled(label.with_name(f"in_power{found[1]}_input"), 1.0))


def _ina238(drivers: Path) -> Iterator[_Channel]:
    powers = sorted(drivers.glob("ina238/*/hwmon/hwmon*/power1_input"))
    for power in powers:
        labels = (word(power.with_name(name)) for name in ("power1_label", "in1_label", "label"))
        name = next(filter(None, labels), "")
        if not name:
            name = _UNNAMED if len(powers) == 1 else f"INA238 {power.parts[-4]}"
        if name != _NOT_CONNECTED:
            yield _Channel(name, _scaled(power, 1e-3))


def _scaled(path: Path, factor: float) -> Callable[[], float]:
    return lambda: whole_number(path) * factor


def _interval_s(drivers: Path) -> float:
    """Return the time between two values of the chip, where its driver states it."""
    stated = [
        int(text) / 1e3
        for path in drivers.glob("ina3221/*/hwmon/hwmon*/update_interval")
        if (text := word(path)).isdecimal()
    ]
    return min(max(_SHORTEST_S, *stated), _LONGEST_S) if stated else _INTERVAL_S
