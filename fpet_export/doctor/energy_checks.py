"""Whether the energy of an image can be measured here, and with which sensor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.energy.find import find_sensor
from benchmarks.energy.meter import reasons_of
from benchmarks.energy.sensor import Missing, Sensor
from fpet_export.doctor.findings import Findings

if TYPE_CHECKING:
    from benchmarks.energy.sources._machine import Device

_DEVICES: tuple[tuple[Device, str], ...] = (("gpu", "the GPU"), ("cpu", "the CPU"))


def check_energy(findings: Findings) -> None:
    """Say which sensor measures work on the GPU and on the CPU, or why none does."""
    told: dict[str, Any] = {}
    sensors: dict[str, list[str]] = {}
    missing: dict[str, Missing] = {}
    lacking = []
    for device, name in _DEVICES:
        found = find_sensor([device])
        if isinstance(found, Sensor):
            found.close()
            told[device] = {
                "source": found.source,
                "covers": found.covers,
                "rule": found.rule,
                "rails": list(found.rails),
            }
            sensors.setdefault(found.in_words(), []).append(name)
        else:
            told[device] = None
            lacking.append(name)
            missing |= {one.source: one for one in found if one.is_absent}
    for words, names in sensors.items():
        findings.fact("energy", f"of work on {' and '.join(names)}: {words}")
    if lacking:
        _say_missing(findings, lacking, list(missing.values()))
    told["missing"] = {one.source: one.reason for one in missing.values()}
    findings.document["energy"] = told


def _say_missing(findings: Findings, names: list[str], missing: list[Missing]) -> None:
    text = f"of work on {' and '.join(names)} is not measured here: {reasons_of(missing)}"
    fix = next((one.fix for one in missing if one.fix), "")
    if fix:
        findings.gap("energy", text, fix, needed=False)
    else:
        findings.reporter.step("energy", text, passed=None)
