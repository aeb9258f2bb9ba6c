"""The energy of a measurement as rows, lines and sentences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from benchmarks.report.table import WIDTH, render_columns, wrapped

if TYPE_CHECKING:
    from benchmarks.energy.result import ContenderEnergy, EnergyRecord, Estimate
    from benchmarks.measurement import ContenderResult, Measurement

HEADS = ("mJ an image", "all", "without rest", "W", "against")
"""Of `energy_rows`: the first cell of a row is the contender."""
_NO_FIGURE = "not known"


def format_energy(measurement: Measurement, *, width: int = WIDTH) -> list[str]:
    """Return the table of energies with its notes, a line each; none where none was asked for."""
    rows = energy_rows(measurement)
    if not rows:
        return []
    lines, spared = render_columns(
        HEADS, rows, words=(0, len(HEADS) - 1), spared=("W", "without rest"), width=width
    )
    said = energy_notes(measurement)
    if spared:
        said.append(f"left out at this width: {', '.join(spared)}")
    return [*lines, "", *wrapped(said, width)]


def energy_rows(measurement: Measurement) -> list[tuple[str, ...]]:
    """Return a row for each contender: energy with and without rest, power, and a comparison."""
    return [
        _row(result, result.energy)
        for result in measurement.contenders
        if result.energy is not None
    ]


def energy_notes(measurement: Measurement) -> list[str]:
    """Return what a reader must know beside the figures, a sentence each."""
    record = measurement.energy
    if record is None:
        return []
    said = []
    if record.total:
        said.append(f"energy: {record.source}, {record.covers} ({record.rule})")
    rest = _rest(record)
    if rest:
        said.append(rest)
    for result in measurement.contenders:
        energy = result.energy
        if energy is not None and energy.why_not:
            said.append(f"NOT VALID: the energy of {result.name} is not known: {energy.why_not}")
        elif energy is not None and energy.why_no_net:
            said.append(f"doubtful: {result.name} without rest: {energy.why_no_net}")
    told = {finding.what for finding in measurement.findings}
    for finding in (one for one in record.findings if one.what not in told):
        mark = "NOT VALID" if finding.severity == "invalid" else "doubtful"
        said.append(f"{mark}: {finding.what}; {finding.fix}")
    return said


def energy_sentences(measurement: Measurement) -> list[str]:
    """Return how each contender's energy compares with the baseline's, where that is known."""
    return [
        f"{result.name}: {result.energy.against.sentence()}"
        for result in measurement.contenders
        if result.energy is not None and result.energy.against is not None
    ]


def unknown_energies(measurements: Sequence[Measurement]) -> list[str]:
    """Return why energies that were asked for are not known, each reason once."""
    reasons = (
        result.energy.why_not
        for measurement in measurements
        for result in measurement.contenders
        if result.energy is not None and result.energy.why_not
    )
    return list(dict.fromkeys(reasons))


def _row(result: ContenderResult, energy: ContenderEnergy) -> tuple[str, ...]:
    if energy.gross is None:
        return (result.name, _NO_FIGURE, "", "", "")
    net = "" if energy.net is None else energy.net.figures()
    power = "" if energy.power_mw is None else f"{energy.power_mw / 1e3:.2f}"
    against = "" if energy.against is None else energy.against.in_brief()
    return (result.name, energy.gross.figures(), net, power, against)


def _rest(record: EnergyRecord) -> str:
    before, after = record.idle_before, record.idle_after
    if before is None or after is None:
        return ""
    return f"at rest {_watts(before)} W before and {_watts(after)} W after the work"


def _watts(power: Estimate) -> str:
    return f"{power.value / 1e3:.2f}"
