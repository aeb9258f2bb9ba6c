"""Intervals of energy an image, from slices of steady work in segments that took turns.

Two bootstraps are made and the wider of both ends is taken: blocks of neighbouring slices hold what
varies within a segment, whole segments what varies from one to the next. Few segments make an
interval too narrow; it is widened as Student's t is wider than the normal distribution.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from benchmarks.energy.result import EnergyComparison, EnergyVerdict, Estimate
from benchmarks.paired_statistics import CONFIDENCE, FloatArray, block_draws, decide

_RESAMPLES = 2000
_Z = 1.959964
_VERDICTS: dict[str, EnergyVerdict] = {"faster": "less", "slower": "more"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Slices:
    """Steady work of one contender, cut at ends of runs.

    Attributes:
        mj: (n,) energy.
        images: (n,) images.
        seconds: (n,) duration.
        segment: (n,) number of the segment, rising from 0.
    """

    mj: FloatArray
    images: FloatArray
    seconds: FloatArray
    segment: np.ndarray[tuple[int], np.dtype[np.int64]]

    def by_segment(self, values: FloatArray) -> FloatArray:
        """Return the sum of each segment, (segments,)."""
        sums: FloatArray = np.bincount(self.segment, weights=values).astype(np.float64)
        return sums


def gross_of(slices: Slices, *, seed: int) -> Estimate:
    """Return millijoules an image with the interval."""
    return _estimate(slices, slices.mj, seed=seed)


def net_of(slices: Slices, idle: tuple[Estimate, Estimate], *, seed: int) -> Estimate:
    """Return the same without what is used at rest.

    What is used at rest is the mean of before and after. The interval holds the net energy with the
    lowest and with the highest power that rest may have had.

    Args:
        slices: Steady work.
        idle: Power at rest before and after, in milliwatts.
        seed: Seed of the resampling.
    """
    powers = (
        sum(one.value for one in idle) / 2, max(one.high for one in idle),
        min(one.low for one in idle),
    )  # fmt: skip
    mean, least, most = (
        _estimate(slices, slices.mj - power * slices.seconds, seed=seed) for power in powers
    )
    return Estimate(value=mean.value, low=least.low, high=most.high)


def power_of(mw: FloatArray, *, seed: int) -> Estimate:
    """Return the mean of powers in milliwatts, (n,) in order, with its interval."""
    means = np.concatenate([mw[drawn].mean(axis=1) for drawn in block_draws(len(mw), seed=seed)])
    low, high = _ends(means, 1.0, float(mw.mean()))
    return Estimate(value=float(mw.mean()), low=low, high=high)


def compare_energy(
    own: Slices, other: Slices, *, baseline: str, seed: int, idle_mw: float = 0.0
) -> EnergyComparison | None:
    """Compare two contenders whose segments took turns; None where one has no energy left.

    Args:
        own: Of the contender.
        other: Of the baseline.
        baseline: Its name.
        seed: Seed of the resampling.
        idle_mw: Power at rest to leave out; 0 compares all that was used.
    """
    both = [(part, part.mj - idle_mw * part.seconds) for part in (own, other)]
    points = [float(mj.sum() / part.images.sum()) for part, mj in both]
    if min(points) <= 0:
        return None
    center = math.log(points[0] / points[1])
    with np.errstate(divide="ignore", invalid="ignore"):
        near = np.subtract(*(
            np.log(_by_slices(part, mj, seed=seed + place)) for place, (part, mj) in enumerate(both)
        ))  # fmt: skip
        count = min(int(part.segment[-1]) + 1 for part, _ in both)
        drawn = _segments_drawn(count, seed)  # the same cycles for both
        far = np.subtract(*(np.log(_by_segments(part, mj, drawn)) for part, mj in both))
    ends = [_ends(near, 1.0, center), _ends(far, _widening(count), center)]
    low, high = (math.exp(end) for end in _hull(ends, center))
    decided = decide(low, high)
    verdict = _VERDICTS.get(decided, "no difference shown")
    return EnergyComparison(
        baseline=baseline, ratio=math.exp(center), low=low, high=high, verdict=verdict
    )


def _estimate(slices: Slices, mj: FloatArray, *, seed: int) -> Estimate:
    value = float(mj.sum() / slices.images.sum())
    count = int(slices.segment[-1]) + 1
    drawn = _segments_drawn(count, seed)
    ends = [
        _ends(_by_slices(slices, mj, seed=seed), 1.0, value),
        _ends(_by_segments(slices, mj, drawn), _widening(count), value),
    ]
    low, high = _hull(ends, value)
    return Estimate(value=value, low=low, high=high)


def _by_slices(slices: Slices, mj: FloatArray, *, seed: int) -> FloatArray:
    found: FloatArray = np.concatenate([
        mj[drawn].sum(axis=1) / slices.images[drawn].sum(axis=1)
        for drawn in block_draws(len(mj), seed=seed)
    ])  # fmt: skip
    return found


def _by_segments(
    slices: Slices, mj: FloatArray, drawn: np.ndarray[tuple[int, int], np.dtype[np.int64]]
) -> FloatArray:
    energy, images = slices.by_segment(mj), slices.by_segment(slices.images)
    found: FloatArray = energy[drawn].sum(axis=1) / images[drawn].sum(axis=1)
    return found


def _segments_drawn(count: int, seed: int) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    return np.random.default_rng(seed).integers(0, count, size=(_RESAMPLES, count))


def _ends(values: FloatArray, widening: float, center: float) -> tuple[float, float]:
    """Return the ends of the interval; infinite where resamples have no value."""
    if np.isnan(values).any():
        return -math.inf, math.inf
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(center + widening * (values - center), [tail, 1 - tail])
    return float(low), float(high)


def _hull(ends: list[tuple[float, float]], center: float) -> tuple[float, float]:
    return min(center, *(low for low, _ in ends)), max(center, *(high for _, high in ends))


def _widening(count: int) -> float:
    """Return by how much an interval from so few segments is too narrow.

    The resamples' variance lacks a factor n / (n - 1), and Student's t stands in for the normal
    distribution (Cornish and Fisher 1937, to the second order in 1 / (n - 1)).
    """
    free = max(count - 1, 1)
    t = _Z + (_Z**3 + _Z) / (4 * free) + (5 * _Z**5 + 16 * _Z**3 + 3 * _Z) / (96 * free**2)
    return t / _Z * math.sqrt(count / free)
