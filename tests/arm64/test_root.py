"""What the arm64 suite says where it cannot run, and how its boards show their CPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from engines.machine import processor
from tests.arm64.board import EVERYTHING, NANO_LIKE, ORIN_LIKE, Cpu, cpuinfo
from tests.arm64.root import lacking


def test_what_is_missing_is_one_line() -> None:
    def nowhere(name: str) -> None:
        return None

    without_apt = lacking(nowhere, user=0)
    without_right = lacking(lambda name: f"/bin/{name}", user=1000)

    assert lacking(lambda name: f"/bin/{name}", user=0) is None
    assert without_apt is not None
    assert "apt-get, dpkg, dpkg-deb, chroot" in without_apt
    assert without_right is not None
    assert "run this as root" in without_right
    assert "\n" not in without_apt + without_right


@pytest.mark.parametrize(
    ("cpu", "capabilities", "sets"),
    [
        # What QEMU 7.2 gives as AT_HWCAP and AT_HWCAP2.
        (NANO_LIKE, (0x8FB, 0), ("asimd",)),
        (ORIN_LIKE, (0x119FFB, 0), ("asimd", "asimddp", "asimdhp")),
        (
            EVERYTHING,
            (0xECFFFFFB, 0x7F877FFF),
            ("asimd", "asimddp", "asimdhp", "bf16", "i8mm", "sve", "sve2"),
        ),
    ],
    ids=lambda value: value.name if isinstance(value, Cpu) else "",
)
def test_a_board_shows_its_cpu_as_an_arm64_kernel_does(
    cpu: Cpu, capabilities: tuple[int, int], sets: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "cpuinfo").write_text(cpuinfo(cpu, capabilities, 2))

    assert processor.instruction_sets(tmp_path / "cpuinfo") == sets
    assert (tmp_path / "cpuinfo").read_text().count("processor\t:") == 2
