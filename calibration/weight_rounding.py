"""Round the weights of a linear so that its outputs, and not the weights, stay close.

1. The inputs of a linear rise and fall together, so the error of one weight can be taken back by
   others of the same output. The weights are rounded one input after the other, the strongest
   first, and what each leaves is moved onto those that are not rounded yet (Frantar et al.,
   "GPTQ", ICLR 2023, eq. 2 and 3, with the Cholesky form of section 3.3). It needs the second
   moments of the inputs: a table that was read from disk has none, and then every weight goes to
   the nearest number.
2. What is left moves the mean of the outputs, since inputs are not centred: the mean of the
   inputs times the error. The bias takes it back.

Both change constants alone, no node of the graph.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from calibration.grids import Grid
from calibration.moments import Moments
from calibration.roles import Linear, linears, sites
from calibration.sources import add_to_bias
from calibration.table import CalibrationTable, Vector
from engines.onnx_graph.files import Graph, Names

DAMPING = 0.01
"""Added to every variance, as a share of their mean; the paper's choice.

In five linears of a pretrained DINOv2 ViT-S/14, in FP8 and on other images, the noise is 0.1 to 4.9
dB below that of the nearest numbers with 8 calibration images, 1.3 to 5.7 dB with 32. With 0.1 it
is 1.3 and 2.3 dB at least, but both whole networks of docs/precision.md lose 0.2 and 0.3 dB.
"""

_BLOCK = 128
"""Inputs whose errors are moved onto all later ones at once."""


@dataclasses.dataclass(frozen=True)
class RoundedWeight:
    """A weight as it comes out of its Q/DQ pair.

    Attributes:
        values: (in, out) numbers of the grid times their scale.
        scale: (out,) in the type of the graph.
        bias: (out,) what the bias takes back.
    """

    values: NDArray[np.float32]
    scale: NDArray[Any]
    bias: Vector


def round_weights(
    graph: Graph, table: CalibrationTable, names: Collection[str], grid: Grid, dtype: np.dtype[Any]
) -> dict[str, RoundedWeight]:
    """Return the rounded weights of linears, by name.

    Args:
        graph: Float32, rewritten as the table's was; it is left alone.
        table: What was seen of it.
        names: Linears that are quantized.
        grid: INT8 or FP8.
        dtype: Type of the scales and of the weights before Q.
    """
    site_of = {site.tensor: site.name for site in sites(graph)}
    found = {}
    for linear in linears(graph):
        if linear.name in names:
            site = site_of[linear.activation.name]
            mean = table.records[site].channel_mean
            found[linear.name] = _rounded(linear, mean, table.moments.get(site), grid, dtype)
    return found


def apply(graph: Graph, weights: Mapping[str, RoundedWeight], names: Names) -> None:
    """Give linears of a float32 graph their rounded weights and mended biases, in place."""
    for linear in linears(graph):
        if linear.name in weights:
            rounded = weights[linear.name]
            name = names.new(f"{linear.name}/rounded")
            linear.product.inputs[1] = gs.Constant(name, rounded.values)
            add_to_bias(linear.product, rounded.bias, names)


def _rounded(
    linear: Linear, mean: Vector, moments: Moments | None, grid: Grid, dtype: np.dtype[Any]
) -> RoundedWeight:
    exact = linear.weight.values
    scale = grid.scale(np.abs(exact.astype(dtype).astype(np.float32)).max(axis=0), dtype)
    if moments is None:
        values = grid.rounded(exact.astype(dtype).astype(np.float32), scale)
    else:
        values = compensated(exact, moments.covariance(), grid, scale)
    bias = -(mean @ (values.astype(np.float64) - exact))
    return RoundedWeight(values, scale, bias)


def compensated(
    weight: NDArray[np.floating[Any]],
    covariance: NDArray[np.float64],
    grid: Grid,
    scale: NDArray[Any],
) -> NDArray[np.float32]:
    """Round (in, out) weights, moving each error onto the weights that are not rounded yet.

    Args:
        weight: (in, out) exact.
        covariance: (in, in) of the inputs.
        grid: INT8 or FP8.
        scale: (out,) one an output.
    """
    variances = np.diag(covariance)
    floor = DAMPING * float(variances.mean())
    if not floor > 0:  # inputs that never move: no error is better than another
        return grid.rounded(weight.astype(np.float32), scale)
    order = np.argsort(-variances, kind="stable")
    inverse = np.linalg.inv(covariance[np.ix_(order, order)] + floor * np.eye(len(order)))
    upper = np.linalg.cholesky((inverse + inverse.T) / 2).T
    left = weight[order].astype(np.float64)
    done = np.zeros(weight.shape, np.float32)
    for start in range(0, len(order), _BLOCK):
        end = min(start + _BLOCK, len(order))
        errors = np.zeros((end - start, weight.shape[1]))
        for row in range(start, end):
            done[row] = grid.rounded(left[row], scale)
            errors[row - start] = (left[row] - done[row]) / upper[row, row]
            left[row + 1 : end] -= np.outer(upper[row, row + 1 : end], errors[row - start])
        left[end:] -= upper[start:end, end:].T @ errors
    rounded = np.empty_like(done)
    rounded[order] = done
    return rounded
