"""Use the whole INT8 range for an input that is hardly ever negative, with a zero point of 0.

GELU gives nothing below -0.17, so half of a symmetric range holds nothing. Every channel is moved
by a constant, a whole number of steps near the middle of its range: the steps halve, and zero,
the commonest value behind GELU, stays a number of the grid. The bias of the linear takes the
constant times the weights. They are the weights as they were rounded: then a zero that was moved
gives what a zero gave before, whatever the rounding of the weights.

FP8 has its finest steps around zero and is not moved; unsigned INT8 has a zero point.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from calibration.equalise import add_to_bias, pointwise
from calibration.grids import Grid
from calibration.roles import Linear
from calibration.table import Record, Vector
from engines.onnx_graph.files import Graph, Names


@dataclasses.dataclass(frozen=True)
class Shift:
    """What is added to the channels of a linear's input.

    Attributes:
        steps: (C,) whole numbers of steps.
        amax: The largest magnitude afterwards, which makes the step `amax / grid.largest`.
    """

    steps: Vector
    amax: float


def fit(record: Record, grid: Grid, dtype: np.dtype[Any]) -> Shift:
    """Return the shift that makes the channels of a site symmetric.

    Args:
        record: What was seen, with channels.
        grid: Grid of INT8.
        dtype: Type of the scale in the graph.
    """
    # Zero stays inside, as everywhere else: other images may have it where these do not.
    lows, highs = np.minimum(record.channel_lowest, 0), np.maximum(record.channel_highest, 0)
    # A middle is rounded to whole steps, which reaches half a step further.
    amax = float((highs - lows).max()) / 2 * grid.largest / (grid.largest - 0.5)
    step = float(grid.scale(amax, dtype))
    return Shift(-np.rint((lows + highs) / 2 / step), amax)


def apply(
    graph: Graph, linear: Linear, shift: Shift, grid: Grid, dtype: np.dtype[Any], names: Names
) -> None:
    """Shift what a linear of a float32 graph reads, in place; see `fit`.

    Its weights are rounded before, see `calibration.weight_rounding`.
    """
    moved = shift.steps * float(grid.scale(shift.amax, dtype))
    linear.product.inputs[0] = pointwise(graph, "Add", linear, moved, names)
    add_to_bias(linear, -(moved @ linear.weight.values.astype(np.float64)), names)
