"""How a machine is set and what it does at one moment: one reading for `doctor` and `bench`.

Standard library only, because it also runs on boards. What the machine does not tell is None or
absent, never a guess.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from engines.machine import clocks, sources, state, thermal
from engines.machine.clocks import Clock
from engines.machine.sampler import Source
from engines.machine.sources import Run, number_of, program, run_command, text_of
from engines.machine.state import GpuProcess, PowerMode, Swap

MODE_FILE = "var/lib/nvpmodel/status"
"""Where `nvpmodel` notes the mode that it set; everybody may read it."""
_USERS = "--query-compute-apps=gpu_uuid,pid,process_name,used_memory"
_LOAD = "--query-gpu=uuid,utilization.gpu"
_CSV = "--format=csv,noheader,nounits"
_GPU_LOADS = (
    "sys/devices/platform/gpu.0/load",
    "sys/devices/platform/bus@0/17000000.gpu/load",
    "sys/devices/platform/17000000.gpu/load",
    "sys/devices/gpu.0/load",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Snapshot:
    """How a machine is set and what it does.

    Attributes:
        power_mode: Name of a Jetson's power mode.
        clocks: Of processors, a Jetson's GPU and its memory.
        governors: Of the processors' clocks, each once.
        temperatures_mc: By sensor, in thousandths of a degree Celsius.
        slows_at_mc: By sensor, from which temperature on the kernel slows something down.
        slowed_by: What slows the machine down at this moment, such as "gpu-throttle-alert".
        events: How often it was slowed down since it started, by kind.
        alarms: The same of events that lower no clock here, such as over-current that only counts.
        quota_us: How long a container had to wait since it started, because its processor quota
            was used up, in microseconds.
        fans: Drive from 0 to 255, and turns a minute.
        swap: Swap areas.
        swapped_pages: Pages that went to or came from swap since the machine started.
        available_bytes: Memory that is free to use.
        load_1min: Load average.
    """

    power_mode: str | None = None
    clocks: tuple[Clock, ...] = ()
    governors: tuple[str, ...] = ()
    temperatures_mc: dict[str, int] = dataclasses.field(default_factory=dict)
    slows_at_mc: dict[str, int] = dataclasses.field(default_factory=dict)
    slowed_by: tuple[str, ...] = ()
    events: dict[str, int] = dataclasses.field(default_factory=dict)
    alarms: dict[str, int] = dataclasses.field(default_factory=dict)
    quota_us: int | None = None
    fans: dict[str, int] = dataclasses.field(default_factory=dict)
    swap: tuple[Swap, ...] | None = None
    swapped_pages: int | None = None
    available_bytes: int | None = None
    load_1min: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class GpuUsers:
    """Who works on the GPU at one moment.

    Attributes:
        listed: Processes that the driver lists; None where it keeps no list, as a Jetson's.
        load: Share of the time in which the GPU was busy, 0 to 1; None where nobody tells.
    """

    listed: tuple[GpuProcess, ...] | None = None
    load: float | None = None


def take_snapshot(*, root: Path | None = None, run: Run = run_command) -> Snapshot:
    """Read how the machine is set and what it does.

    Args:
        root: Where `etc`, `proc`, `sys` and `var` are; None for this machine.
        run: Runs a command and returns what it prints.
    """
    root = sources.ROOT if root is None else root
    mode = read_power_mode(root=root, run=run)
    zones = thermal.zones(root)
    temperatures = {zone.name: number_of(zone.file) for zone in zones}
    areas = root / "proc/swaps"
    active = {name: number_of(file) for name, file in thermal.coolers(root).items()}
    counted = [(counter, counter.read()) for counter in thermal.counters(root)]
    return Snapshot(
        power_mode=None if mode is None else mode.name,
        clocks=read_clocks(root=root, run=run),
        governors=clocks.governors(root),
        temperatures_mc={
            name: at for name, at in temperatures.items() if at is not None and is_temperature(at)
        },
        slows_at_mc={zone.name: zone.slows_at_mc for zone in zones if zone.slows_at_mc},
        slowed_by=tuple(name for name, at in active.items() if at is not None and at > 0),
        events={one.name: count for one, count in counted if count is not None and one.slows},
        alarms={one.name: count for one, count in counted if count is not None and not one.slows},
        quota_us=_quota_us(root / "sys/fs/cgroup"),
        fans=thermal.fans(root),
        swap=state.swaps(text_of(areas)) if areas.exists() else None,
        swapped_pages=_swapped_pages(text_of(root / "proc/vmstat")),
        available_bytes=_available_bytes(text_of(root / "proc/meminfo")),
        load_1min=_load_1min(text_of(root / "proc/loadavg")),
    )


def read_power_mode(*, root: Path, run: Run) -> PowerMode | None:
    """Return a Jetson's power mode: as `nvpmodel` says, or else from the file of its own.

    Args:
        root: Where `etc` and `var` are.
        run: See `take_snapshot`.
    """
    said = state.power_mode(run(("nvpmodel", "-q")))
    if said is not None:
        return said
    number = Source("", "pmode:").value(text_of(root / MODE_FILE))
    return next((mode for mode in power_modes(root) if mode.number == number), None)


def power_modes(root: Path) -> tuple[PowerMode, ...]:
    """Return the power modes that a Jetson offers; none elsewhere.

    Args:
        root: Where `etc` is.
    """
    found = state.power_modes(text_of(root / "etc/nvpmodel.conf"))
    return tuple(PowerMode(name, number) for name, number in found.items())


def read_clocks(*, root: Path, run: Run) -> tuple[Clock, ...]:
    """Return the clocks, from files; as root also from `jetson_clocks`, which knows the memory's.

    Args:
        root: Where `sys` is.
        run: See `take_snapshot`.
    """
    found = clocks.read_clocks(root)
    knows_all = {"GPU", "EMC"} <= {clock.name for clock in found}
    if knows_all or program("jetson_clocks") is None or os.geteuid() != 0:
        return found  # it shows nothing to anybody but root
    return state.clocks(run(("jetson_clocks", "--show"))) or found


def read_gpu_users(*, root: Path | None = None, run: Run = run_command) -> dict[str, GpuUsers]:
    """Read who works on each GPU, by its UUID; `nvidia-smi` takes some 50 ms for each answer.

    A Jetson's GPU has none, and stands under "".

    Args:
        root: Where `sys` is; None for this machine.
        run: See `take_snapshot`.
    """
    root = sources.ROOT if root is None else root
    if is_jetson(root):
        file = gpu_load_file(root)
        thousandths = None if file is None else number_of(file)
        return {"": GpuUsers(load=None if thousandths is None else thousandths / 1000)}
    loads = _by_uuid(run(("nvidia-smi", _LOAD, _CSV)))
    if not loads:  # no GPU, or a driver that does not tell
        return {}
    listed = _by_uuid(run(("nvidia-smi", _USERS, _CSV)))
    return {
        uuid: GpuUsers(
            listed=state.gpu_processes(listed.get(uuid, "")),
            load=int(load) / 100 if load.strip().isdecimal() else None,
        )
        for uuid, load in loads.items()
    }


def _by_uuid(text: str) -> dict[str, str]:
    """Return what stands behind each UUID, a line each."""
    found: dict[str, str] = {}
    for line in text.split("\n")[:-1]:
        uuid, separator, rest = line.partition(", ")
        if separator and uuid.startswith(("GPU-", "MIG-")):
            found[uuid] = f"{found.get(uuid, '')}{rest}\n"
    return found


def gpu_load_file(root: Path) -> Path | None:
    """Return where a Jetson tells its GPU's load, in thousandths; None elsewhere and on Thor.

    Args:
        root: Where `sys` is.
    """
    files = (root / name for name in _GPU_LOADS)
    return next((file for file in files if number_of(file) is not None), None)


def is_jetson(root: Path) -> bool:
    """Return whether this is a Jetson.

    Args:
        root: Where `etc` and `proc` are.
    """
    compatible = text_of(root / "proc/device-tree/compatible")
    return "nvidia,tegra" in compatible or (root / "etc/nv_tegra_release").exists()


def is_temperature(thousandths: int) -> bool:
    """Return whether a sensor tells a temperature; a block that is switched off tells -256 °C."""
    return -60_000 < thousandths < 200_000


def _quota_us(cgroup: Path) -> int | None:
    waited = Source("", "throttled_usec ").value(text_of(cgroup / "cpu.stat"))
    if waited is not None:
        return waited
    of_v1 = text_of(cgroup / "cpu/cpu.stat")
    return Source("", "throttled_time ", divisor=1000).value(of_v1)


def _load_1min(text: str) -> float | None:
    try:
        return float(text.split()[0])
    except (IndexError, ValueError):
        return None


def _swapped_pages(vmstat: str) -> int | None:
    found = [Source("", f"{name} ").value(vmstat) for name in ("pswpin", "pswpout")]
    known = [pages for pages in found if pages is not None]
    return sum(known) if len(known) == len(found) else None


def _available_bytes(meminfo: str) -> int | None:
    kibibytes = Source("", "MemAvailable:").value(meminfo)
    return None if kibibytes is None else 1024 * kibibytes
