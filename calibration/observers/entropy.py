"""The range whose quantized distribution loses the least information (TensorRT's classic rule).

For every candidate range the magnitudes beyond it are put into its last bin, the bins are summed
into as many steps as the grid has, each step is spread evenly over its bins that hold data, and
the Kullback-Leibler divergence between both distributions is compared.

Source: Szymon Migacz, "8-bit Inference with TensorRT", GTC 2017.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from calibration.grids import Grid
from calibration.histogram import BINS, Histogram

_STEPS = 128
"""Steps of an INT8 grid on one side, zero included."""


def amax(histogram: Histogram, grid: Grid) -> float:
    """Return the upper border of the best range; see `calibration.observers.Observer`.

    FP8's steps grow with the value, so that clipping buys nothing there: it keeps everything.
    """
    if not grid.levels.are_uniform or histogram.largest == 0:
        return histogram.largest
    used = int(np.flatnonzero(histogram.counts)[-1]) + 1
    if used <= _STEPS:
        return histogram.largest
    candidates = range(_STEPS, used + 1, max(1, BINS // 256))
    best = min(candidates, key=lambda bins: divergence(histogram.counts, bins))
    whole = divergence(histogram.counts, used)
    if whole <= divergence(histogram.counts, best):
        return histogram.largest
    return min(float(histogram.edges[best]), histogram.largest)


def divergence(counts: NDArray[np.int64], bins: int) -> float:
    """Return the Kullback-Leibler divergence in nats when the first `bins` bins are kept."""
    kept = counts[:bins].astype(np.float64)
    reference = kept.copy()
    reference[-1] += counts[bins:].sum()
    step = np.arange(bins) * _STEPS // bins
    filled = kept > 0
    sums = np.bincount(step, weights=kept, minlength=_STEPS)
    holding = np.bincount(step, weights=filled, minlength=_STEPS)
    spread = np.where(filled, sums[step] / np.maximum(holding[step], 1), 0.0)
    p, q = reference / reference.sum(), spread / max(spread.sum(), 1.0)
    tiny = 1e-12  # a bin that only clipped values reach: finite, and dear
    where = p > 0
    return float((p[where] * np.log(p[where] / np.maximum(q[where], tiny))).sum())
