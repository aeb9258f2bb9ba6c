"""The range with the smallest mean squared error of rounding and clipping."""

from __future__ import annotations

import numpy as np

from calibration.grids import Grid
from calibration.histogram import Histogram

_CANDIDATES = np.geomspace(1.0, 0.05, 128)
"""Shares of the largest magnitude that are tried."""


def amax(histogram: Histogram, grid: Grid) -> float:
    """Return the best of the candidates, the widest among equals; see `Observer`."""
    if histogram.largest == 0:
        return 0.0
    candidates = [float(share) * histogram.largest for share in _CANDIDATES]
    return min(candidates, key=lambda candidate: error(histogram, grid, candidate))


def error(histogram: Histogram, grid: Grid, amax: float) -> float:
    """Return the sum of squared errors when every value sits in the middle of its bin."""
    filled = histogram.counts > 0
    centres = np.minimum(histogram.centres[filled], histogram.largest)
    rounded = grid.rounded(centres, grid.scale(amax, np.dtype(np.float32)))
    return float((histogram.counts[filled] * (rounded - centres) ** 2).sum())
