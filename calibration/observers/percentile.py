"""A high percentile of the magnitudes: a few outliers are clipped for finer steps."""

from __future__ import annotations

import numpy as np

from calibration.grids import Grid
from calibration.histogram import Histogram

SHARE = 0.9999
"""Of the values that are not clipped."""


def amax(histogram: Histogram, grid: Grid) -> float:
    """Return the upper border of the bin in which `SHARE` is reached; see `Observer`."""
    reached = np.cumsum(histogram.counts) >= SHARE * histogram.total
    border = float(histogram.edges[int(np.argmax(reached)) + 1])
    return min(border, histogram.largest)
