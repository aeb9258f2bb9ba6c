"""Find the sensor that measures what does the work; say why not where there is none."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from benchmarks.energy.rails import rails_of_board, read_board
from benchmarks.energy.sensor import Missing, Sensor
from benchmarks.energy.sources import ina, nvidia_smi, nvml, rapl, tegrastats
from benchmarks.energy.sources._machine import Device, Machine
from engines.machine import sources

_SOURCES = (ina, tegrastats, nvml, nvidia_smi, rapl)
"""In the order in which they are tried: the first one that gives a number is taken."""
_WORDS = {"cpu": "the CPU", "gpu": "the GPU"}


def find_sensor(
    devices: Collection[Device], *, root: Path | None = None
) -> Sensor | tuple[Missing, ...]:
    """Return a sensor that measures all that does the work, or why there is none, by source.

    Args:
        devices: What does the work: the CPU, the GPU, or both.
        root: Where `sys` and `proc` are; None is `engines.machine.sources.ROOT`.
    """
    root = root or sources.ROOT
    board = read_board(root)
    machine = Machine(root=root, board=board, rails=board and rails_of_board(board))
    missing = []
    for source in _SOURCES:
        lacks = [_WORDS[device] for device in sorted(devices) if device not in source.SERVES]
        if lacks:
            reason = f"it does not measure {' and '.join(lacks)}, where work is done"
            missing.append(Missing(source=source.NAME, reason=reason, is_absent=False))
            continue
        found = source.open_sensor(machine)
        if isinstance(found, Sensor):
            return found
        missing.append(found)
    return tuple(missing)
