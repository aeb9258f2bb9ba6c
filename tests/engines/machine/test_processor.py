from __future__ import annotations

import os
from pathlib import Path

import pytest

from engines.machine import processor

X86 = """processor\t: 0
model name\t: Some CPU @ 3 GHz
flags\t\t: fpu sse4_2 avx avx2 fma avx512_vnni rdrand

processor\t: 1
model name\t: Some CPU @ 3 GHz
flags\t\t: fpu
"""
ARM = "processor\t: 0\nFeatures\t: fp asimd asimddp crc32\nModel\t: Some Board\n"


@pytest.mark.parametrize(
    ("text", "sets", "name"),
    [
        (X86, ("avx", "avx2", "avx512_vnni", "fma", "sse4_2"), "Some CPU @ 3 GHz"),
        (ARM, ("asimd", "asimddp"), "Some Board"),
    ],
)
def test_cpuinfo_is_read(tmp_path: Path, text: str, sets: tuple[str, ...], name: str) -> None:
    (tmp_path / "cpuinfo").write_text(text)

    assert processor.instruction_sets(tmp_path / "cpuinfo") == sets
    assert processor.processor_name(tmp_path / "cpuinfo") == name


def test_an_arm64_kernel_numbers_its_cpu(tmp_path: Path) -> None:
    text = "processor\t: 0\nFeatures\t: fp asimd\nCPU implementer\t: 0x41\nCPU part\t: 0xd42\n"
    (tmp_path / "cpuinfo").write_text(text)

    assert processor.processor_name(tmp_path / "cpuinfo").endswith("implementer 0x41, part 0xd42")


def test_a_system_without_cpuinfo_still_has_a_name(tmp_path: Path) -> None:
    assert processor.instruction_sets(tmp_path / "none") == ()
    assert processor.processor_name(tmp_path / "none")


def sys_folder(root: Path, siblings: list[str], **quota: str) -> Path:
    for index, text in enumerate(siblings):
        folder = root / f"devices/system/cpu/cpu{index}/topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(text + "\n")
    (root / "fs/cgroup/cpu").mkdir(parents=True)
    for name, text in quota.items():
        (root / "fs/cgroup" / name.replace("__", "/").replace("_DOT_", ".")).write_text(text)
    return root


@pytest.mark.parametrize(
    ("quota", "cores"),
    [
        ({}, 2),
        ({"cpu_DOT_max": "max 100000"}, 2),
        ({"cpu_DOT_max": "100000 100000"}, 1),
        ({"cpu_DOT_max": "150000 100000"}, 2),
        ({"cpu__cpu_DOT_cfs_quota_us": "100000", "cpu__cpu_DOT_cfs_period_us": "100000"}, 1),
        ({"cpu__cpu_DOT_cfs_quota_us": "-1", "cpu__cpu_DOT_cfs_period_us": "100000"}, 2),
    ],
)
def test_hyper_threads_and_quotas_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: dict[str, str], cores: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    folder = sys_folder(tmp_path, ["0,2", "1,3", "0,2", "1,3"], **quota)

    assert processor.usable_cores(folder) == cores


def test_this_machine_has_a_core() -> None:
    assert 1 <= processor.usable_cores() <= (os.cpu_count() or 1)
