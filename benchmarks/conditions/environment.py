"""What a measurement was taken on: hardware, system, versions.

Nothing here names a host, a user or a path.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path

from benchmarks.conditions.gpu_state import Gpu, read_gpus
from engines.machine import processor
from engines.machine.jetson import read_board
from engines.machine.sources import text_of
from engines.targets import _lookup

_PACKAGES = (
    "fpet-export", "numpy", "onnxruntime", "onnxruntime-gpu", "openvino", "torch", "timm", "onnx",
    "tensorrt", "tensorrt-rtx-cu13",
)  # fmt: skip
_KIB = 1024
_UNLIMITED = 1 << 60  # cgroup v1 writes a number near 2**63 for "no limit"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Environment:
    """The machine and the software of a measurement; None where the system does not state it.

    Attributes:
        cpu: Model name.
        architecture: "x86_64", "aarch64".
        cores: Physical cores.
        processors: Logical processors.
        usable_processors: Those that this process may run on.
        isa: Vector instruction sets.
        governor: Frequency governor.
        virtual: Whether a hypervisor is present.
        load_1min: Load average before the measurement.
        memory_bytes: Main memory.
        available_bytes: How much of it is free to use.
        container_processors: Processor limit of the container.
        container_memory_bytes: Memory limit of the container.
        board: Name of an embedded board.
        system: Distribution, or the kernel's name.
        kernel: Release.
        python: Version.
        packages: Versions of what is installed and takes part.
        commit: Commit of the repository that the code lies in, with "+" when it was changed since.
        gpus: What the driver reports.
        date: UTC, ISO 8601.
        jetpack: JetPack of a Jetson, as "6.2".
        device: Target that a Jetson's module is, without its release.
    """

    cpu: str
    architecture: str
    cores: int | None
    processors: int
    usable_processors: int
    isa: tuple[str, ...]
    governor: str | None
    virtual: bool | None
    load_1min: float | None
    memory_bytes: int | None
    available_bytes: int | None
    container_processors: float | None
    container_memory_bytes: int | None
    board: str | None
    system: str
    kernel: str
    python: str
    packages: dict[str, str]
    commit: str | None
    gpus: tuple[Gpu, ...]
    date: str
    jetpack: str | None = None
    device: str | None = None


def read_environment(*, root: Path = Path("/"), now: dt.datetime | None = None) -> Environment:
    """Read what this process can learn about its machine.

    Args:
        root: Where `proc` and `sys` are; another folder in tests.
        now: Time to record.
    """
    cpu = text_of(root / "proc/cpuinfo")
    memory = text_of(root / "proc/meminfo")
    flags = _field(cpu, "flags").split()  # an arm64 kernel's Features never tell
    jetson = read_board(_lookup.modules(), root)
    return Environment(
        cpu=processor.processor_name(root / "proc/cpuinfo"),
        architecture=platform.machine(),
        cores=_physical_cores(cpu),
        processors=os.cpu_count() or 1,
        usable_processors=usable_processors(),
        isa=processor.instruction_sets(root / "proc/cpuinfo"),
        governor=text_of(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").strip()
        or None,
        virtual="hypervisor" in flags if flags else None,
        load_1min=round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        memory_bytes=_kib(memory, "MemTotal"),
        available_bytes=_kib(memory, "MemAvailable"),
        container_processors=_container_processors(root / "sys/fs/cgroup"),
        container_memory_bytes=_container_memory(root / "sys/fs/cgroup"),
        board=text_of(root / "proc/device-tree/model").strip("\0\n ") or None,
        system=_field(text_of(root / "etc/os-release"), "PRETTY_NAME").strip('"')
        or platform.system(),
        kernel=platform.release(),
        python=platform.python_version(),
        packages=_package_versions(),
        commit=_commit(Path(__file__).parent),
        gpus=tuple(one.gpu for one in read_gpus()),
        date=(now or dt.datetime.now(dt.timezone.utc)).isoformat(timespec="seconds"),
        jetpack=None if jetson is None else jetson.jetpack,
        device=None if jetson is None or not jetson.target else jetson.target.partition("@")[0],
    )


def usable_processors() -> int:
    """Return the number of logical processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _field(text: str, name: str) -> str:
    found = re.search(rf"^(?:{name})\s*[:=]\s*(.*)$", text, re.MULTILINE)
    return found.group(1).strip() if found else ""


def _kib(text: str, name: str) -> int | None:
    words = _field(text, name).split()
    return int(words[0]) * _KIB if words and words[0].isdigit() else None


def _physical_cores(cpuinfo: str) -> int | None:
    pairs = set()
    for entry in cpuinfo.split("\n\n"):
        socket, core = _field(entry, "physical id"), _field(entry, "core id")
        if core:
            pairs.add((socket, core))
    return len(pairs) or None


def _container_processors(cgroup: Path) -> float | None:
    words = text_of(cgroup / "cpu.max").split()  # version 2: "quota period" or "max period"
    if not words:
        words = [  # version 1
            text_of(cgroup / "cpu/cpu.cfs_quota_us").strip(),
            text_of(cgroup / "cpu/cpu.cfs_period_us").strip(),
        ]
    if len(words) == 2 and all(word.isdigit() for word in words) and int(words[1]):
        return int(words[0]) / int(words[1])
    return None


def _container_memory(cgroup: Path) -> int | None:
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        word = text_of(cgroup / name).strip()
        if word.isdigit() and int(word) < _UNLIMITED:
            return int(word)
    return None


def _package_versions() -> dict[str, str]:
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _commit(folder: Path) -> str | None:
    commit = output_of("git", "-C", str(folder), "rev-parse", "HEAD").strip()
    # An installed copy below somebody else's repository must not borrow that commit.
    if not commit or not output_of("git", "-C", str(folder), "ls-files", Path(__file__).name):
        return None
    changed = output_of("git", "-C", str(folder), "status", "--porcelain", "--untracked-files=no")
    return commit + ("+" if changed.strip() else "")


def output_of(*command: str) -> str:
    """Return what a command prints; "" where it is absent, fails or hangs."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout
