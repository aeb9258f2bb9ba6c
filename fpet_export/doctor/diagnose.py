"""What a machine can do and what is missing: `DoctorRequest`, `diagnose`, `Diagnosis`."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.conditions import environment
from engines.machine import jetson, snapshot
from engines.targets import _lookup
from fpet_export.doctor import board_checks, bundle_checks, energy_checks, workstation
from fpet_export.doctor import findings as _findings
from fpet_export.doctor.findings import Findings
from fpet_export.reporter import SILENT, Reporter
from fpet_export.requests import Request

if TYPE_CHECKING:
    from benchmarks.conditions.environment import Environment
    from engines.machine.jetson import JetsonIdentity


@dataclasses.dataclass(frozen=True, kw_only=True)
class DoctorRequest(Request):
    """What is asked of this machine.

    Attributes:
        board: Ask for what running needs, not exporting; a Jetson is asked for that anyway.
        bundle: An unpacked bundle, to see whether it fits this machine.
    """

    board: bool = False
    bundle: Path | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What was found.

    Attributes:
        lacking: What every job needs and is not there.
        problems: Every gap: its name, what is wrong, what mends it, whether nothing works without.
        facts: Everything else that was found, by its name.
        exit_code: 0, or that of the first gap that stops every job.
        next: Commands that mend the gaps, or what to type next where nothing is lacking.
    """

    lacking: tuple[str, ...]
    problems: tuple[Mapping[str, Any], ...]
    facts: Mapping[str, Any]
    exit_code: int
    next: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            **self.facts,
            "lacking": list(self.lacking),
            "problems": [dict(one) for one in self.problems],
        }


def diagnose(request: DoctorRequest | None = None, reporter: Reporter = SILENT) -> Diagnosis:
    """Check one thing after the other; a gap is found, not raised."""
    request = request or DoctorRequest()
    findings = Findings(reporter)
    machine, board = environment.read_environment(), jetson.read_board(_lookup.modules())
    version, system = platform.python_version(), f"{platform.system()} {platform.machine()}"
    of_a_board = request.board or request.bundle is not None or board is not None
    if not of_a_board:
        reporter.align(workstation.NAMES)
    findings.fact("python", f"{version} on {system}")
    builds = False
    if of_a_board:
        builds = _check_board(findings, machine, board, request.bundle)
    else:
        workstation.check_workstation(findings, machine)
    energy_checks.check_energy(findings)
    ready = "fpet-export build" if builds else "fpet-export targets"
    return Diagnosis(
        lacking=tuple(findings.lacking),
        problems=tuple(findings.problems),
        facts=findings.document,
        exit_code=findings.exit_code,
        next=tuple(findings.commands or ([] if findings.lacking else [ready])),
    )


def _check_board(
    findings: Findings, machine: Environment, board: JetsonIdentity | None, bundle: Path | None
) -> bool:
    """Say what running needs; return whether there is a graph to build an engine from."""
    unpacked = None if bundle is None else bundle_checks.open_bundle(findings, bundle)
    module = None if unpacked is None else unpacked.target.module
    versions = board_checks.check_packages(findings, board, module)
    now = snapshot.take_snapshot()
    board_checks.check_board(findings, board, versions.get("tensorrt"), now)
    _findings.check_processor(findings, machine)
    board_checks.check_memory(findings, machine, board, now)
    board_checks.check_gpu(findings, machine, board, of_a_bundle=bundle is not None)
    _findings.check_ssh(findings, programs={"ssh-keygen": "verify, of signed bundles"})
    if unpacked is not None:
        bundle_checks.check_fit(findings, unpacked, machine, board, versions)
    return unpacked is not None and unpacked.manifest.kind == "graph"
