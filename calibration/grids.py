"""The numbers that a quantized tensor can hold: INT8 and FP8 (E4M3), symmetric, no zero point.

Both come from one `amax`, the largest magnitude that is kept: INT8 has 127 equal steps up to it,
E4M3 puts its largest number, 448, there. Rounding is to the nearest, ties to even, and what lies
beyond is clipped, as ONNX QuantizeLinear states it.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating[Any]]

SMALLEST_SCALE = 2.0**-14
"""The smallest normal number of float16; scales below it lose digits."""


@dataclasses.dataclass(frozen=True)
class Grid:
    """One quantized type.

    Attributes:
        name: "int8" or "fp8".
        dtype: How the graph stores it.
        largest: The largest number, in steps of the scale.
    """

    name: Literal["int8", "fp8"]
    dtype: np.dtype[Any]
    largest: float

    def scale(self, amax: FloatArray | float, dtype: np.dtype[Any]) -> NDArray[Any]:
        """Return amax / largest in the type of the graph, at least `SMALLEST_SCALE`."""
        exact = np.asarray(amax, np.float64) / self.largest
        return np.maximum(exact, SMALLEST_SCALE).astype(dtype)

    def quantized(self, values: FloatArray, scale: NDArray[Any]) -> NDArray[Any]:
        """Return what QuantizeLinear stores for `values`; `scale` broadcasts."""
        steps = values.astype(np.float32) / scale.astype(np.float32)
        if self.name == "int8":
            steps = np.rint(steps)
        return np.clip(steps, -self._lowest, self.largest).astype(self.dtype)

    def rounded(self, values: FloatArray, scale: NDArray[Any]) -> NDArray[np.float32]:
        """Return `values` after quantizing and dequantizing."""
        found: NDArray[np.float32] = self.quantized(values, scale).astype(np.float32)
        return found * scale.astype(np.float32)

    @property
    def _lowest(self) -> float:
        return 128.0 if self.name == "int8" else self.largest


INT8 = Grid("int8", np.dtype(np.int8), 127.0)
FP8 = Grid("fp8", np.dtype(ml_dtypes.float8_e4m3fn), 448.0)
GRIDS = {"int8": INT8, "fp8": FP8}
