"""Rules that choose `amax`, the largest magnitude a quantized tensor keeps, from a histogram.

An entry is a file with `amax(histogram, grid) -> float`. The histograms are stored in the
calibration table, so another rule can be applied without running the network again.
"""

from __future__ import annotations

from typing import Protocol

from calibration.grids import Grid
from calibration.histogram import Histogram


class Observer(Protocol):
    """What a file in `calibration/observers/` offers."""

    def amax(self, histogram: Histogram, grid: Grid) -> float:
        """Return the largest magnitude to keep; zero only for a histogram of zeros."""
