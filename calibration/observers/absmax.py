"""The largest magnitude seen: nothing is clipped."""

from __future__ import annotations

from calibration.grids import Grid
from calibration.histogram import Histogram


def amax(histogram: Histogram, grid: Grid) -> float:
    """Return the largest magnitude; see `calibration.observers.Observer`."""
    return histogram.largest
