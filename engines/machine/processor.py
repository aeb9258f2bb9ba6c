"""The CPU that this process runs on: cores it may use, and instruction sets."""

from __future__ import annotations

import os
import platform
from collections.abc import Collection
from pathlib import Path

_X86_PREFIXES = ("sse4", "avx", "fma", "f16c", "amx")
_ARM_NAMES = ("asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2", "sme")


def processor_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return the CPU's model name, as far as the system tells it."""
    for key in ("model name", "Model", "Hardware"):
        found = _values(cpuinfo, key)
        if found:
            return found[0]
    maker, part = (_values(cpuinfo, f"CPU {key}") for key in ("implementer", "part"))
    if maker and part:  # an arm64 kernel gives numbers and no name
        return f"{platform.machine()}, implementer {maker[0]}, part {part[0]}"
    return platform.processor() or platform.machine()


def instruction_sets(cpuinfo: Path = Path("/proc/cpuinfo")) -> tuple[str, ...]:
    """Return the vector instruction sets of this CPU, sorted; what kernels are chosen by.

    Empty where the system has no /proc/cpuinfo.
    """
    flags = {
        flag
        for key in ("flags", "Features")
        for line in _values(cpuinfo, key)[:1]
        for flag in line.split()
    }
    return tuple(
        sorted(flag for flag in flags if flag.startswith(_X86_PREFIXES) or flag in _ARM_NAMES)
    )


def difference_from(machine: str, sets: Collection[str]) -> str:
    """Say in words how this CPU differs from another one; "" where kernels suit both.

    Args:
        machine: Its architecture, as `platform.machine()` gives it.
        sets: Its instruction sets.
    """
    here, there = {platform.machine(), *instruction_sets()}, {machine, *sets}
    if here == there:
        return ""
    lacks, adds = sorted(there - here), sorted(here - there)
    return f"this one lacks {' '.join(lacks) or 'nothing'} and adds {' '.join(adds) or 'nothing'}"


def usable_cores(system: Path = Path("/sys")) -> int:
    """Return the physical cores this process may use: affinity and the container's quota.

    Two hyper-threads of one core share its multipliers, so a second thread there only costs.
    """
    try:
        processors = sorted(os.sched_getaffinity(0))
    except AttributeError:  # macOS and Windows
        return os.cpu_count() or 1
    cores = {
        _read(system / f"devices/system/cpu/cpu{processor}/topology/thread_siblings_list")
        or str(processor)
        for processor in processors
    }
    quota = _quota(system / "fs/cgroup")
    return max(1, min(len(cores), quota) if quota else len(cores))


def _quota(cgroup: Path) -> int | None:
    """Return the CPUs that the container's quota pays for, rounded up; None without a quota."""
    limit, _, period = _read(cgroup / "cpu.max").partition(" ")
    if not period:
        limit = _read(cgroup / "cpu/cpu.cfs_quota_us")
        period = _read(cgroup / "cpu/cpu.cfs_period_us")
    try:
        share = int(limit) / int(period)
    except (ValueError, ZeroDivisionError):  # "max", or no such file
        return None
    return max(1, -int(-share // 1)) if share > 0 else None


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8").strip()
    except OSError:
        return ""


def _values(cpuinfo: Path, key: str) -> list[str]:
    return [
        value.strip()
        for line in _read(cpuinfo).splitlines()
        for name, separator, value in [line.partition(":")]
        if separator and name.strip() == key
    ]
