"""A Jetson's rails as tegrastats prints them: the fallback where sysfs shows no sensor."""

from __future__ import annotations

import math

from benchmarks.energy.rails import indices_of_total
from benchmarks.energy.sensor import Missing, Sensor
from benchmarks.energy.sources._lines import Lines
from benchmarks.energy.sources._machine import Device, Machine
from engines.machine.sources import program
from engines.machine.tegrastats import parse

NAME = "tegrastats"
SERVES: frozenset[Device] = frozenset({"cpu", "gpu"})
_INTERVAL_MS = 100
_WITHIN_S = 5.0


def open_sensor(machine: Machine) -> Sensor | Missing:
    """Return what tegrastats shows with the board's total, or why there is none."""
    if machine.board is None:
        return Missing(source=NAME, reason="this is no Jetson", is_absent=False)
    command = program("tegrastats")
    if command is None:
        return Missing(source=NAME, reason="there is no tegrastats on PATH")
    if not machine.rails or isinstance(machine.rails, str):
        return Missing(source=NAME, reason=str(machine.rails or "no rule for its total is known"))
    try:
        lines = Lines([command, "--interval", str(_INTERVAL_MS)])
    except OSError as error:
        return Missing(source=NAME, reason=f"tegrastats cannot be started: {error}")
    try:
        names = tuple(rail.name for rail in parse(lines.next(within_s=_WITHIN_S)).rails)
    except OSError as error:
        lines.close()
        return Missing(source=NAME, reason=str(error))
    total = indices_of_total(machine.rails, names)
    if isinstance(total, str):
        lines.close()
        return Missing(source=NAME, reason=total)

    def read() -> list[float]:
        by_name = {rail.name: rail.now_mw for rail in parse(lines.next(within_s=_WITHIN_S)).rails}
        return [float(by_name.get(name, math.nan)) for name in names]

    return Sensor(
        source=NAME,
        covers="the whole module",
        rails=names,
        total=total,
        rule=machine.rails.rule,
        read=read,
        interval_s=0.0,
        averaging_s=_INTERVAL_MS / 1e3,
        close=lines.close,
    )
