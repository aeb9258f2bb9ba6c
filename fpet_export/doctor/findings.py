"""What `doctor` found, and the checks that a workstation and a board share."""

from __future__ import annotations

import dataclasses
import platform
import re
import shutil
from typing import TYPE_CHECKING, Any

from engines.backends._aoti.builder import FIX_COMPILER, compiler
from engines.contract import OpenOptions
from engines.machine.processor import usable_cores
from engines.machine.snapshot import read_gpu_users
from fpet_export.reporter import Reporter

if TYPE_CHECKING:
    from benchmarks.conditions.environment import Environment

MISSING = 4
"""Exit code where something that every job needs is missing."""

_LEAST_DISK_GB = 2
_COMMAND = re.compile(r"(?:sudo|pip|python3|fpet-export) |['/]")
"""What can be pasted; other ways to mend are sentences, and stand behind the gap alone."""


@dataclasses.dataclass
class Findings:
    """Lines for people, and the same for programs.

    Attributes:
        reporter: Hears of each finding at once.
        document: For `--json`.
        lacking: What every job needs and is not there.
        commands: What mends the gaps, each once.
        exit_code: 0, or that of the first gap that stops every job.
    """

    reporter: Reporter
    document: dict[str, Any] = dataclasses.field(default_factory=dict)
    lacking: list[str] = dataclasses.field(default_factory=list)
    commands: list[str] = dataclasses.field(default_factory=list)
    problems: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    exit_code: int = 0

    def fact(self, name: str, text: str) -> None:
        """Say what is as it should be."""
        self.reporter.step(name, text)

    def unknown(self, name: str, text: str) -> None:
        """Say what nobody can tell here, and why."""
        self.reporter.step(name, f"unknown: {text}", passed=None)

    def gap(
        self, name: str, text: str, fix: str, *, needed: bool, exit_code: int = MISSING
    ) -> None:
        """Say what is missing or wrong.

        Args:
            name: Name of what was looked at.
            text: What is wrong with it.
            fix: The command that puts it right, or what to do where no command does.
            needed: Whether nothing works without it.
            exit_code: Exit code of the command, where it is needed.
        """
        self.reporter.step(name, f"{text}: {fix}", passed=False if needed else None)
        self.problems.append({"name": name, "what": text, "fix": fix, "needed": needed})
        if needed:
            self.lacking.append(name)
            self.exit_code = self.exit_code or exit_code
            if _COMMAND.match(fix) and fix not in self.commands:
                self.commands.append(fix)


def has_rtx() -> bool:
    """Whether TensorRT-RTX exists for this kind of machine: NVIDIA packs it for x86-64 alone."""
    return platform.machine().lower() in ("x86_64", "amd64")


def check_processor(findings: Findings, machine: Environment) -> None:
    """Say what the CPU is and whether other work runs on it."""
    cores = usable_cores()
    threads = OpenOptions().threads or cores
    findings.fact("cpu", f"{machine.cpu} · {cores} cores usable, engines take {threads} threads")
    if machine.load_1min is not None and machine.load_1min > 0.5 * cores:
        findings.gap(
            "load",
            f"{machine.load_1min:.1f}, latencies would suffer",
            "let the other work finish (top)",
            needed=False,
        )
    free_gb = shutil.disk_usage(".").free / 1e9
    if free_gb > _LEAST_DISK_GB:
        findings.fact("disk", f"{free_gb:.0f} GB free here")
    else:
        findings.gap(
            "disk",
            f"{free_gb:.1f} GB free here, too little for graphs and engines",
            "work in a folder on another disk",
            needed=True,
        )
    memory = memory_bytes(machine)
    findings.document["machine"] = {
        "cpu": machine.cpu,
        "cores": cores,
        "memory_gb": None if memory is None else round(memory / 1e9, 1),
        "free_disk_gb": round(free_gb, 1),
    }


def memory_bytes(machine: Environment) -> int | None:
    """Return the memory that this process may use at most."""
    limits = (machine.memory_bytes, machine.container_memory_bytes)
    return min((limit for limit in limits if limit is not None), default=None)


def check_ssh(findings: Findings, *, programs: dict[str, str]) -> None:
    """Say whether OpenSSH's programs are there.

    Args:
        findings: Where to say it.
        programs: Each with what it is for.
    """
    found = {name: shutil.which(name) is not None for name in programs}
    findings.document["ssh"] = found
    for name, purpose in programs.items():
        if found[name]:
            findings.fact(name, f"for {purpose}")
        else:
            findings.gap(
                name,
                f"absent, for {purpose}",
                "sudo apt-get install openssh-client",
                needed=False,
            )


def check_compiler(findings: Findings) -> None:
    """Say whether there is a C++ compiler, which packages of PyTorch are built with."""
    found = compiler()
    findings.document["compiler"] = found
    purpose = "building for the torch-cpu and torch-cuda targets"
    if found is not None:
        findings.fact("c++", f"{found}, for {purpose}")
    else:
        findings.gap("c++", f"absent, for {purpose}", FIX_COMPILER, needed=False)


def check_gpu(findings: Findings, machine: Environment, *, of_a_bundle: bool = False) -> None:
    """Say which GPUs the driver shows, and who else works on them.

    Args:
        findings: Where to say it.
        machine: This machine.
        of_a_bundle: Whether a bundle was named: what other targets could do here is no matter.
    """
    findings.document["gpus"] = [gpu.name for gpu in machine.gpus]
    if not machine.gpus:
        rtx = ": rtx plans can be built here, not run" if has_rtx() and not of_a_bundle else ""
        findings.reporter.step("gpu", f"none that its driver shows{rtx}", passed=None)
        return
    for gpu in machine.gpus:
        findings.fact("gpu", f"{gpu.name}, driver {gpu.driver}")
    others = [one for users in read_gpu_users().values() for one in users.listed or ()]
    findings.document["gpu_users"] = [dataclasses.asdict(other) for other in others]
    if not others:
        findings.fact("gpu users", "none that the driver lists (it sees no other container)")
        return
    names = ", ".join(
        other.name + ("" if other.memory_mib is None else f" {other.memory_mib} MiB")
        for other in others
    )
    findings.gap(
        "gpu users",
        f"{names}: latencies would suffer",
        "let them finish (nvidia-smi)",
        needed=False,
    )
