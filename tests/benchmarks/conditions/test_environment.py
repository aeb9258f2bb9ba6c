from __future__ import annotations

import dataclasses
import datetime as dt
import getpass
import json
import platform
from pathlib import Path

import pytest

from benchmarks.conditions.environment import read_environment

CPUINFO = """processor\t: 0
model name\t: Imaginary 9000
physical id\t: 0
core id\t\t: 0
flags\t\t: fpu avx2 fma hypervisor

processor\t: 1
model name\t: Imaginary 9000
physical id\t: 0
core id\t\t: 0
flags\t\t: fpu avx2 fma hypervisor

processor\t: 2
model name\t: Imaginary 9000
physical id\t: 0
core id\t\t: 1
flags\t\t: fpu avx2 fma hypervisor
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    files = {
        "proc/cpuinfo": CPUINFO,
        "proc/meminfo": "MemTotal:       2048 kB\nMemAvailable:   1024 kB\n",
        "etc/os-release": 'NAME="Imaginary"\nPRETTY_NAME="Imaginary 1.0"\n',
        "sys/fs/cgroup/cpu.max": "150000 100000\n",
        "sys/fs/cgroup/memory.max": "1048576\n",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "performance\n",
        "proc/device-tree/model": "Imaginary Board\0",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_machine_is_read_from_the_kernel(root: Path) -> None:
    place = read_environment(root=root)

    assert place.cpu == "Imaginary 9000"
    assert place.cores == 2
    assert {"avx2", "fma"} <= set(place.isa)
    assert place.virtual is True
    assert place.governor == "performance"
    assert (place.memory_bytes, place.available_bytes) == (2048 * 1024, 1024 * 1024)
    assert place.container_processors == 1.5
    assert place.container_memory_bytes == 1048576
    assert place.system == "Imaginary 1.0"
    assert place.board == "Imaginary Board"


def test_a_jetson_says_which_module_and_jetpack_it_is(root: Path) -> None:
    (root / "proc/device-tree/compatible").write_text(
        "nvidia,p3768-0000+p3767-0005\0nvidia,p3767-0005\0nvidia,tegra234\0"
    )
    (root / "etc/nv_tegra_release").write_text("# R36 (release), REVISION: 4.3, GCID: 1\n")

    place = read_environment(root=root)

    assert (place.device, place.jetpack) == ("jetson-orin-nano-8gb", "6.2")
    (root / "etc/nv_tegra_release").write_text("# R99 (release), REVISION: 1.0, GCID: 1\n")
    assert read_environment(root=root).jetpack is None


def test_what_the_system_does_not_tell_is_none(tmp_path: Path) -> None:
    place = read_environment(root=tmp_path)

    assert place.cores is None
    assert place.virtual is None
    assert place.governor is None
    assert place.memory_bytes is None
    assert place.container_processors is None
    assert place.board is None
    assert (place.device, place.jetpack) == (None, None)
    assert place.cpu


def test_an_arm64_kernel_does_not_tell_whether_it_is_virtual(root: Path) -> None:
    (root / "proc/cpuinfo").write_text("processor\t: 0\nFeatures\t: fp asimd asimddp\n")

    place = read_environment(root=root)

    assert place.virtual is None
    assert place.isa == ("asimd", "asimddp")


def test_no_limit_is_none(root: Path) -> None:
    (root / "sys/fs/cgroup/cpu.max").write_text("max 100000\n")
    (root / "sys/fs/cgroup/memory.max").write_text("max\n")

    place = read_environment(root=root)

    assert place.container_processors is None
    assert place.container_memory_bytes is None


def test_date_is_utc(root: Path) -> None:
    now = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.timezone.utc)

    assert read_environment(root=root, now=now).date == "2026-01-02T03:04:05+00:00"


def test_nothing_names_the_host_the_user_or_a_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", "a-secret-of-the-test")

    text = json.dumps(dataclasses.asdict(read_environment()))

    assert "a-secret-of-the-test" not in text
    assert str(Path.home()) not in text
    assert str(Path(__file__).parent) not in text
    assert f'"{platform.node()}"' not in text
    assert f'"{getpass.getuser()}"' not in text
