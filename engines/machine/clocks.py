"""Clocks of a machine's processors, its GPU and its memory, as the kernel shows them.

Standard library only, because it also runs on boards.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

from engines.machine.sources import number_of, text_of

_GPU_FOLDER = re.compile(r"\.(gpu|ga10b|gv11b|gp10b|gm20b)$|^gpu-gpc-\d+$")
_MEMORY = "sys/kernel/debug/bpmp/debug/clk/emc"
"""Where a Jetson's memory clock is; only root may look there."""


@dataclasses.dataclass(frozen=True)
class Clock:
    """Between which frequencies the governor may move a clock.

    Attributes:
        name: "cpu0", "GPU", "EMC" (the memory's).
        least_hz: Lower limit.
        most_hz: Upper limit.
        is_held: Whether it stays where it is.
        now_hz: Where it is; None where that is not told.
    """

    name: str
    least_hz: int
    most_hz: int
    is_held: bool
    now_hz: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClockFiles:
    """Where a clock is told: what it is now, and its limits.

    Attributes:
        name: As in `Clock`.
        now: File with the present frequency.
        least: File with the lower limit.
        most: File with the upper limit.
        unit: Hertz that one of the numbers stands for.
        override: File with a 1 where the clock is held wherever its limits are; None without one.
    """

    name: str
    now: Path
    least: Path
    most: Path
    unit: int
    override: Path | None = None

    def read(self) -> Clock | None:
        """Return the clock; None where its limits are not told."""
        now, least, most = (number_of(path) for path in (self.now, self.least, self.most))
        if least is None or most is None:
            return None
        now_hz = None if now is None else now * self.unit
        is_held = least == most if self.override is None else number_of(self.override) == 1
        return Clock(self.name, least * self.unit, most * self.unit, is_held, now_hz)


def clock_files(root: Path) -> tuple[ClockFiles, ...]:
    """Return where this machine tells its clocks; none where it has no such files.

    Args:
        root: Where `sys` is.
    """
    return (*_processors(root), *_gpus(root), *_memory(root))


def read_clocks(root: Path) -> tuple[Clock, ...]:
    """Return the clocks of a machine's processors and a Jetson's GPU, and as root its memory's.

    Args:
        root: Where `sys` is; another folder in tests.
    """
    found = (files.read() for files in clock_files(root))
    return tuple(clock for clock in found if clock is not None)


def are_held(found: tuple[Clock, ...]) -> bool | None:
    """Return whether all clocks stay where they are; None where the GPU's is not among them."""
    if not any(clock.name == "GPU" for clock in found):
        return None
    return all(clock.is_held for clock in found)


def governors(root: Path) -> tuple[str, ...]:
    """Return the governors of the processors' clocks, each once."""
    found = (text_of(policy / "scaling_governor").strip() for policy in _policies(root))
    return tuple(dict.fromkeys(name for name in found if name))


def _policies(root: Path) -> list[Path]:
    folders = (root / "sys/devices/system/cpu/cpufreq").glob("policy*")
    return sorted(folders, key=lambda path: (len(path.name), path.name))


def _processors(root: Path) -> Iterator[ClockFiles]:
    for path in _policies(root):
        yield ClockFiles(
            name=f"cpu{path.name[6:]}",
            now=path / "scaling_cur_freq",
            least=path / "scaling_min_freq",
            most=path / "scaling_max_freq",
            unit=1000,
        )


def _gpus(root: Path) -> Iterator[ClockFiles]:
    folders = sorted((root / "sys/class/devfreq").glob("*"))
    named = (path for path in folders if _GPU_FOLDER.search(path.name))
    for index, path in enumerate(named):
        yield ClockFiles(
            name=f"GPU{index or ''}",
            now=path / "cur_freq",
            least=path / "min_freq",
            most=path / "max_freq",
            unit=1,
        )


def _memory(root: Path) -> Iterator[ClockFiles]:
    folder = root / _MEMORY
    if number_of(folder / "rate") is not None:
        yield ClockFiles(
            name="EMC",
            now=folder / "rate",
            least=folder / "min_rate",
            most=folder / "max_rate",
            unit=1,
            override=folder / "mrq_rate_locked",
        )
