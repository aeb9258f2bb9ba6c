"""Watches the machine while the rounds of a measurement run."""

from __future__ import annotations

import dataclasses
import itertools
import os
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, TypeVar

from benchmarks.conditions.gpu_state import read_used_gpu
from benchmarks.conditions.setting import Setting
from benchmarks.conditions.watched import Conditions, Watch
from engines.machine import clocks, snapshot, sources, thermal
from engines.machine.sampler import Sampler, Samples, Source
from engines.machine.snapshot import GpuUsers, read_gpu_users, take_snapshot

if TYPE_CHECKING:
    from typing_extensions import Self  # typing.Self needs Python 3.11

T = TypeVar("T")
INTERVAL_S = 0.25
"""Between readings: some two thousandths of a core on a board."""
_MOST = 16  # clocks and coolers that are watched: a server has hundreds
_IDLE_READINGS = 5
_IDLE_PAUSE_S = 0.05
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
_PAGES_A_MIB = max((1 << 20) // _PAGE_BYTES, 1)


class Watching(Protocol):
    """A watch over one attempt: used with `with`, asked once when its rounds are over."""

    def __enter__(self) -> Self:
        """Begin."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End, whether it was asked or not."""

    def conditions(self, *, rounds_s: float) -> Conditions:
        """Return what was seen in the `rounds_s` seconds that have just ended."""


class Watcher(Protocol):
    """Made before contenders are opened, when nothing of ours uses the GPU."""

    def attempt(self) -> Watching:
        """Return the watch over one attempt."""


class MachineWatcher:
    """Watches this machine.

    Args:
        root: Where `etc`, `proc`, `sys` and `var` are; None for this machine.
        interval_s: Seconds between readings.
        setting: What was set for the measurement; it is recorded.
    """

    def __init__(
        self,
        *,
        root: Path | None = None,
        interval_s: float = INTERVAL_S,
        setting: Setting | None = None,
    ) -> None:
        self._root, self._interval_s = sources.ROOT if root is None else root, interval_s
        self._idle, self._setting = _idle_gpus(self._root), setting

    def attempt(self) -> MachineWatch:
        """Return the watch over one attempt."""
        return MachineWatch(self._root, self._interval_s, self._idle, self._setting)


class MachineWatch:
    """Watches one attempt; see `Watching`."""

    def __init__(
        self, root: Path, interval_s: float, idle: dict[str, GpuUsers], setting: Setting | None
    ) -> None:
        self._root, self._idle, self._setting = root, idle, setting
        # Elsewhere there is nothing to read, and no way to wait for the end of a pipe.
        is_posix = os.name == "posix"
        self._sampler = Sampler(watched_sources(root), interval_s=interval_s) if is_posix else None
        self._interval_s = interval_s

    def __enter__(self) -> Self:
        self._before = take_snapshot(root=self._root)
        if self._sampler is not None:
            self._sampler.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        if self._sampler is not None:
            self._sampler.__exit__(*error)

    def conditions(self, *, rounds_s: float) -> Conditions:
        """Return what was seen in the `rounds_s` seconds that have just ended."""
        ended_s = time.monotonic()
        watch = Watch(interval_s=self._interval_s)
        if self._sampler is not None:
            watch = _seen(self._sampler.stop(), began_s=ended_s - rounds_s)
        users = read_gpu_users(root=self._root)
        used = _used(users)
        idle = self._idle.get(used, GpuUsers())
        return Conditions(
            before=self._before,
            after=take_snapshot(root=self._root),
            watch=watch,
            gpu_before=idle,
            gpu_after=_others(users.get(used, GpuUsers()), idle),
            setting=self._setting,
        )


def watched_sources(root: Path) -> dict[str, Source]:
    """Return what is watched: files alone that the kernel answers at once.

    Args:
        root: Where `proc`, `sys` and `var` are.
    """
    found = {
        "busy_ticks": Source(str(root / "proc/stat"), "cpu ", (0, 1, 2, 5, 6)),
        "available_mib": Source(str(root / "proc/meminfo"), "MemAvailable:", divisor=1024),
        **{
            f"swapped_mib.{way}": Source(
                str(root / "proc/vmstat"), f"pswp{way} ", divisor=_PAGES_A_MIB
            )
            for way in ("in", "out")
        },
        "power_mode_number": Source(str(root / snapshot.MODE_FILE), "pmode:"),
    }
    for clock in _few(clocks.clock_files(root)):
        divisor = 1_000_000 // clock.unit
        found[f"clock_mhz.{clock.name}"] = Source(str(clock.now), divisor=divisor)
        found[f"cap_mhz.{clock.name}"] = Source(str(clock.most), divisor=divisor)
    for zone in thermal.zones(root):
        found[f"temperature_mc.{zone.name}"] = Source(str(zone.file))
    for name, file in _few(list(thermal.coolers(root).items())):
        found[f"slowed.{name}"] = Source(str(file))
    load = snapshot.gpu_load_file(root)
    if load is not None:
        found["gpu_load_permille"] = Source(str(load))
    return found


def _few(found: Sequence[T]) -> Sequence[T]:
    """Return some of many, evenly: a server has a clock for each of its hundred processors."""
    step = -(-len(found) // _MOST)
    return found[:: max(step, 1)]


def _seen(samples: Samples, *, began_s: float) -> Watch:
    """Return the readings from the last one before the rounds on, without what told nothing."""
    before = sum(1 for at in samples.times_s if at <= began_s)
    first = max(before - 1, 0)
    lived_s = samples.times_s[-1] - samples.times_s[0] if samples.times_s else 0.0
    return Watch(
        interval_s=samples.interval_s,
        times_ms=tuple(round(1000 * (at - began_s)) for at in samples.times_s[first:]),
        series={
            name: values[first:]
            for name, values in samples.columns.items()
            if any(value is not None for value in values)
        },
        cpu_s=samples.cpu_s,
        lived_s=round(lived_s, 3),
        failure=samples.failure,
    )


def _idle_gpus(root: Path) -> dict[str, GpuUsers]:
    """Read who works on GPUs while nothing of ours does; a Jetson's load is a mean."""
    found = {uuid: _others(users, GpuUsers()) for uuid, users in read_gpu_users(root=root).items()}
    jetson = found.get("")
    if jetson is None or jetson.load is None:
        return found
    loads = [jetson.load]
    for _ in itertools.repeat(None, _IDLE_READINGS - 1):
        time.sleep(_IDLE_PAUSE_S)
        now = read_gpu_users(root=root)[""].load
        loads += [] if now is None else [now]
    return {"": dataclasses.replace(jetson, load=sum(loads) / len(loads))}


def _used(users: dict[str, GpuUsers]) -> str:
    """Return which GPU this process uses; "" where it is not certain, as `check_gpu` says then."""
    if len(users) == 1:
        return next(iter(users))
    found = read_used_gpu() if users else None
    return "" if found is None else found.uuid


def _others(found: GpuUsers, before: GpuUsers) -> GpuUsers:
    """Return the same without this process.

    In a container the driver's numbers of processes are not ours: there the one that came since is
    taken for this process.

    Args:
        found: What the driver lists now.
        before: The others that were there before contenders were opened.
    """
    if found.listed is None:
        return found
    others = tuple(one for one in found.listed if one.pid != os.getpid())
    known = {one.pid for one in before.listed or ()}
    new = [one for one in others if one.pid not in known]
    if len(others) == len(found.listed) and before.listed is not None and len(new) == 1:
        others = tuple(one for one in others if one is not new[0])
    return dataclasses.replace(found, listed=others)
