"""From readings to energy over time: samples of power are integrated, counters are unrolled."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.paired_statistics import FloatArray, Nanoseconds

if TYPE_CHECKING:
    from benchmarks.energy.recorder import Record
    from benchmarks.energy.sensor import Sensor

_MOST_MW = 1e8
"""No machine that is meant here takes 100 kW: a counter that says so has jumped."""
_FEWEST_CHANGES = 3  # from which a period can be told


@dataclasses.dataclass(frozen=True, kw_only=True)
class Curve:
    """Energy since the first reading.

    Attributes:
        ns: (n,) times, rising, n >= 2.
        mj: (n,) energy until then; straight in between.
        changes_ns: (m,) when a value differed from the one before: the others of a slow sensor
            are the same value again.
    """

    ns: Nanoseconds
    mj: FloatArray
    changes_ns: Nanoseconds

    def energy_mj(self, start_ns: int, end_ns: int) -> float:
        """Return the energy between two times that the readings cover."""
        low, high = np.interp(np.array([start_ns, end_ns]), self.ns, self.mj)
        return float(high - low)

    def longest_gap_s(self, start_ns: int, end_ns: int) -> float:
        """Return the longest time without a reading that touches this span; infinite outside."""
        if start_ns < self.ns[0] or end_ns > self.ns[-1]:
            return float("inf")
        first = int(np.searchsorted(self.ns, start_ns, side="right")) - 1
        last = int(np.searchsorted(self.ns, end_ns, side="left"))
        return float(np.diff(self.ns[first : last + 1]).max(initial=0)) / 1e9

    def changes(self, start_ns: int, end_ns: int) -> int:
        """Return how many different readings lie in a span."""
        return int(((self.changes_ns >= start_ns) & (self.changes_ns <= end_ns)).sum())

    def period_s(self, start_ns: int, end_ns: int) -> float | None:
        """Return the usual time between two different readings; None where too few tell."""
        inside = (self.changes_ns >= start_ns) & (self.changes_ns <= end_ns)
        times = self.changes_ns[inside]
        return float(np.median(np.diff(times))) / 1e9 if len(times) >= _FEWEST_CHANGES else None


def curve_of(record: Record, sensor: Sensor, rails: Sequence[int]) -> Curve | str:
    """Return the energy of some rails together, or why it is not known.

    Args:
        record: What was read.
        sensor: What it was read from.
        rails: Which rails, as indices; a reading without one of them is left out.
    """
    columns = record.values[:, list(rails)]
    is_later = np.concatenate(([True], np.diff(record.ns) > 0))[: len(record.ns)]
    whole = np.logical_and(~np.isnan(columns).any(axis=1), is_later)
    ns, columns = record.ns[whole], columns[whole]
    if len(ns) < 2:
        return f"{len(ns)} readings in all"
    changed = np.asarray(np.diff(columns, axis=0).any(axis=1))
    if sensor.quantity == "power":
        milliwatts = columns.sum(axis=1)
        steps = (milliwatts[1:] + milliwatts[:-1]) / 2 * np.diff(ns) / 1e9
    else:
        wraps = np.array([sensor.wraps_at_mj[rail] for rail in rails])
        rises = np.diff(columns, axis=0)
        rises = np.where((rises < 0) & np.isfinite(wraps), rises + wraps, rises)
        if (rises < 0).any():
            return "its counter went back"
        # Between two updates a counter stands still, and its reading is late: those are left out.
        ns, steps = ns[np.concatenate(([True], changed))], rises.sum(axis=1)[changed]
        changed = np.ones(len(steps), np.bool_)
        if len(ns) < 2:
            return "its counter stood still"
    if (np.abs(steps) > _MOST_MW * np.diff(ns) / 1e9).any():
        return "it jumped to more than 100 kW"
    return Curve(ns=ns, mj=np.concatenate(([0.0], np.cumsum(steps))), changes_ns=ns[1:][changed])
