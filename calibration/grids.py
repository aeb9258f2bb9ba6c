"""The numbers that a quantized tensor can hold: INT8 and FP8 (E4M3), symmetric, no zero point.

Both come from one `amax`, the largest magnitude that is kept: INT8 has 127 equal steps up to it,
E4M3 puts its largest number, 448, there. Rounding is to the nearest, ties to even, and what lies
beyond is clipped, as ONNX QuantizeLinear states it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from engines import precisions
from engines.precisions import Levels, QuantizedName

FloatArray = NDArray[np.floating[Any]]

SMALLEST_SCALE = 2.0**-14
"""The smallest normal number of float16; scales below it lose digits."""


@dataclasses.dataclass(frozen=True)
class Grid:
    """One quantized type.

    Attributes:
        name: A quantized precision.
        dtype: How the graph stores it.
        levels: What it can hold.
    """

    name: QuantizedName
    dtype: np.dtype[Any]
    levels: Levels

    @property
    def largest(self) -> float:
        """The largest number, in steps of the scale."""
        return self.levels.largest

    def scale(self, amax: FloatArray | float, dtype: np.dtype[Any]) -> NDArray[Any]:
        """Return amax / largest in the type of the graph, at least `SMALLEST_SCALE`."""
        exact = np.asarray(amax, np.float64) / self.largest
        return np.maximum(exact, SMALLEST_SCALE).astype(dtype)

    def quantized(self, values: FloatArray, scale: NDArray[Any]) -> NDArray[Any]:
        """Return what QuantizeLinear stores for `values`; `scale` broadcasts."""
        steps = values.astype(np.float32) / scale.astype(np.float32)
        if self.levels.are_uniform:
            steps = np.rint(steps)
        return np.clip(steps, self.levels.lowest, self.largest).astype(self.dtype)

    def rounded(self, values: FloatArray, scale: NDArray[Any]) -> NDArray[np.float32]:
        """Return `values` after quantizing and dequantizing."""
        found: NDArray[np.float32] = self.quantized(values, scale).astype(np.float32)
        return found * scale.astype(np.float32)


def _grid(name: QuantizedName) -> Grid:
    precision = precisions.PRECISIONS[name]
    assert precision.levels is not None
    dtype = np.dtype(getattr(ml_dtypes, precision.storage_dtype, precision.storage_dtype))
    return Grid(name, dtype, precision.levels)


GRIDS: Mapping[str, Grid] = {name: _grid(name) for name in precisions.QUANTIZED}
INT8, FP8 = GRIDS[precisions.INT8], GRIDS[precisions.FP8]
