"""A board of the emulated root: its CPU, the files in which its kernel shows that, and a folder."""

from __future__ import annotations

import dataclasses
import functools
import os
import subprocess
from pathlib import Path

from tests.fpet_export.command_line import Done

_FEATURES = (
    "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm jscvt fcma "
    "lrcpc dcpop sha3 sm3 sm4 asimddp sha512 sve asimdfhm dit uscat ilrcpc flagm ssbs sb paca pacg"
)
_MORE_FEATURES = (
    "dcpodp sve2 sveaes svepmull svebitperm svesha3 svesm4 flagm2 frint svei8mm svef32mm svef64mm "
    "svebf16 i8mm bf16"
)
"""Names of the bits of AT_HWCAP and AT_HWCAP2, lowest first. Source: Linux, arch/arm64,
include/uapi/asm/hwcap.h and kernel/cpuinfo.c."""

_ASK = (
    "import ctypes; get = ctypes.CDLL(None).getauxval; get.restype = ctypes.c_ulong; "
    "print(get(16), get(26))"
)
_SECONDS = 1800


@dataclasses.dataclass(frozen=True)
class Cpu:
    """A CPU that QEMU emulates, and the numbers of it that the kernel would print."""

    name: str
    implementer: int
    part: int


ORIN_LIKE = Cpu("cortex-a76", 0x41, 0xD0B)
"""ARMv8.2 with half precision and the dot product, as the A78AE of an Orin."""
NANO_LIKE = Cpu("cortex-a57", 0x41, 0xD07)
"""ARMv8.0 without either, as a Jetson Nano or TX2 has it."""
EVERYTHING = Cpu("max", 0x00, 0x051)
"""Whatever QEMU knows: i8mm, bf16, SVE2."""


def cpuinfo(cpu: Cpu, capabilities: tuple[int, int], cores: int) -> str:
    """Return `/proc/cpuinfo` as an arm64 kernel prints it: no model name, and Features, not flags.

    Args:
        cpu: Its numbers.
        capabilities: AT_HWCAP and AT_HWCAP2.
        cores: How many.
    """
    features = " ".join(
        name
        for bits, names in zip(capabilities, (_FEATURES, _MORE_FEATURES), strict=True)
        for place, name in enumerate(names.split())
        if bits >> place & 1
    )
    return "".join(
        f"processor\t: {core}\nBogoMIPS\t: 125.00\nFeatures\t: {features}\n"
        f"CPU implementer\t: {cpu.implementer:#04x}\nCPU architecture: 8\nCPU variant\t: 0x0\n"
        f"CPU part\t: {cpu.part:#05x}\nCPU revision\t: 0\n\n"
        for core in range(cores)
    )


@dataclasses.dataclass(frozen=True)
class Board:
    """One emulated machine with a folder of its own; machines share a root, one runs at a time.

    Attributes:
        root: From `tests.arm64.root.prepare`.
        folder: Name of its folder below `/board`.
        cpu: What is emulated.
    """

    root: Path
    folder: str
    cpu: Cpu

    @property
    def path(self) -> Path:
        """Its folder, seen from here."""
        return self.root / "board" / self.folder

    def agent(self, *words: object) -> Done:
        """Run the agent in its folder, as a user would type it."""
        return self.python("agent.pyz", *words)

    def python(self, *words: object) -> Done:
        """Run the system's Python in its folder."""
        _show_cpu(self.root, self.cpu)
        return _start(self.root, self.cpu, f"/board/{self.folder}", *words)


def _show_cpu(root: Path, cpu: Cpu) -> None:
    """Write what the kernel would show; nothing is mounted, so nothing of the host is seen."""
    cores = os.cpu_count() or 1
    (root / "proc/cpuinfo").write_text(cpuinfo(cpu, _capabilities(root, cpu), cores))
    for name in ("possible", "present", "online"):
        (root / "sys/devices/system/cpu" / name).write_text(f"0-{cores - 1}\n")


@functools.cache
def _capabilities(root: Path, cpu: Cpu) -> tuple[int, int]:
    done = _start(root, cpu, "/", "-c", _ASK)
    assert done.code == 0, done.err
    first, second = map(int, done.out.split())
    return first, second


def _start(root: Path, cpu: Cpu, folder: str, *words: object) -> Done:
    enter = 'cd "$1" && shift && exec /usr/bin/python3 "$@"'
    done = subprocess.run(
        ["chroot", str(root), "/emulator/sh", "-c", enter, "sh", folder, *map(str, words)],
        env={"QEMU_CPU": cpu.name, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"},
        capture_output=True, text=True, check=False, timeout=_SECONDS,
    )  # fmt: skip
    return Done(done.returncode, done.stdout, done.stderr)
