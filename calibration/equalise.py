"""Exact rewrites that make a ViT easier to quantize.

1. Centre the values. The softmax sums to one, so a constant taken from every value vector comes
   back unchanged behind the mixing, where the projection's bias adds it. INT8 loses the
   probabilities below half a step, together up to a third of their sum; what is lost then is the
   distance from the mean and not the mean itself.
2. Scale the channels between a norm and its linears. A part of a channel's range, `ALPHAS`, is
   moved into the weights; the norm's own weight and bias take the inverse (Xiao et al.,
   "SmoothQuant", ICML 2023, eq. 4).
3. In INT8, scale the channels between the values and proj likewise. The mixing adds tokens and
   never channels, so what makes the values takes the inverse.
4. Scale the channels between GELU and fc2 likewise. Nothing before fc2 can take the inverse, so
   it is a product with a constant in the graph. TensorRT-RTX fuses it with GELU.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from calibration import shift
from calibration.roles import Linear, linears
from calibration.sources import (
    add_to_bias,
    bias_input,
    bias_of,
    give,
    norms,
    pointwise,
    second_linears,
    value_makers,
)
from calibration.table import CalibrationTable, Record, Rewrites, Vector
from engines import precisions
from engines.errors import InputError
from engines.onnx_graph.files import Graph, Names, Node


@dataclasses.dataclass(frozen=True, kw_only=True)
class Alphas:
    """How much of a channel's range moves into the weights (SmoothQuant's alpha).

    Attributes:
        norms: Between a norm and its linears.
        values: Between the values and proj; None leaves them alone.
        second: Between GELU and fc2.
        from_middle: Whether a channel's range counts from its middle, to which `calibration.shift`
            moves zero.
    """

    norms: float
    values: float | None
    second: float
    from_middle: bool


ALPHAS = {
    precisions.INT8: Alphas(norms=0.8, values=0.8, second=0.8, from_middle=True),
    precisions.FP8: Alphas(norms=0.5, values=None, second=0.65, from_middle=False),
}
"""Weights have a scale for every output and are compensated when they are rounded; activations have
one scale in all. In INT8 the noise of the activations therefore outweighs that of the weights by
5 to 15 dB at one half, the paper's choice, and equals it at 0.8 or above. The noise of FP8 is a
share of each value, whatever the range: there more than the paper's choice loses answers.
"""

_LEAST = 1e-5
"""Below it a channel counts as empty: its factor would be noise."""


def apply(graph: Graph, rewrites: Rewrites) -> None:
    """Rewrite a float32 graph, in place; its answers stay the same up to rounding.

    Raises:
        InputError: The rewrites are of another graph.
    """
    makers = {name: (linear, projection) for name, linear, projection in value_makers(graph)}
    scaled = {norm.name: (norm, products) for norm, products in norms(graph)}
    widths = {name: len(projection.weight.values) for name, (_, projection) in makers.items()}
    _require_widths(rewrites.values, widths)
    _require_widths(rewrites.value_factors, widths)
    _require_widths(
        rewrites.factors, {name: norm.inputs[1].shape[0] for name, (norm, _) in scaled.items()}
    )
    second = {linear.name: linear for linear in second_linears(graph)}
    _require_widths(
        rewrites.inputs, {name: linear.weight.shape[0] for name, linear in second.items()}
    )
    names = Names(graph)
    for name, mean in rewrites.values.items():
        _centre(*makers[name], mean, names)
    for name, factor in rewrites.value_factors.items():
        _scale_values(*makers[name], factor, names)
    for name, factor in rewrites.factors.items():
        _scale(*scaled[name], factor, names)
    for name, factor in rewrites.inputs.items():
        _scale_input(graph, second[name], factor, names)


def _require_widths(vectors: Mapping[str, Vector], widths: Mapping[str, int]) -> None:
    for name, vector in vectors.items():
        if widths.get(name) != len(vector):
            raise InputError(
                f"the calibration table moved {len(vector)} channels of {name}, the graph has "
                f"{widths.get(name, 'no such layer')}",
                where=name,
                fix="calibrate this graph afresh: leave the table out",
            )


def fit(graph: Graph, table: CalibrationTable, precision: str = precisions.INT8) -> Rewrites:
    """Find what to move from the channels of a graph's linear inputs.

    Args:
        graph: Float32, as exported.
        table: What was seen at its sites.
        precision: What the inputs become, int8 or fp8.
    """
    alphas = ALPHAS[precision]
    values, value_factors = {}, {}
    for name, linear, projection in value_makers(graph):
        record = table.records.get(f"{name}/input")
        mixed = table.records.get(f"{projection.name}/input")
        if record is not None and mixed is not None:
            width = len(projection.weight.values)
            weight = linear.weight.values[:, -width:].astype(np.float64)
            bias = bias_of(linear.product).values[-width:].astype(np.float64)
            values[name] = record.channel_mean @ weight + bias
            if alphas.values is not None:
                reach = _reach(mixed, alphas, keeps_zero=False)
                value_factors[name] = _factors(reach, [projection], alphas.values)
    factors = {}
    by_product = {id(linear.product): linear for linear in linears(graph)}
    for norm, products in norms(graph):
        fed = [by_product[id(node)] for node in products if id(node) in by_product]
        seen = [table.records.get(f"{linear.name}/input") for linear in fed]
        record = next((one for one in seen if one is not None), None)
        if record is not None:
            factors[norm.name] = _factors(
                _reach(record, alphas, keeps_zero=False), fed, alphas.norms
            )
    inputs = {}
    for linear in second_linears(graph):
        record = table.records.get(f"{linear.name}/input")
        if record is not None:
            reach = _reach(record, alphas, keeps_zero=True)
            inputs[linear.name] = _factors(reach, [linear], alphas.second)
    return Rewrites(values, factors, inputs, value_factors)


def _centre(linear: Linear, projection: Linear, mean: Vector, names: Names) -> None:
    shifted = np.zeros(bias_of(linear.product).shape)
    shifted[-len(mean) :] -= mean
    add_to_bias(linear.product, shifted, names)
    add_to_bias(projection.product, mean @ projection.weight.values.astype(np.float64), names)


def _scale_values(linear: Linear, projection: Linear, factor: Vector, names: Names) -> None:
    divisor = np.ones(bias_of(linear.product).shape)
    divisor[-len(factor) :] = factor
    give(linear.product, 1, linear.weight.values / divisor, names)
    give(*bias_input(linear.product), bias_of(linear.product).values / divisor, names)
    give(projection.product, 1, projection.weight.values * factor[:, None], names)


def _reach(record: Record, alphas: Alphas, *, keeps_zero: bool) -> Vector:
    """Return how far (C,) channels reach, from zero or from their middle."""
    if not alphas.from_middle:
        return record.channel_largest
    lows, highs = shift.ends(record, keeps_zero=keeps_zero)
    reach: Vector = (highs - lows) / 2
    return reach


def _factors(reach: Vector, fed: list[Linear], alpha: float) -> Vector:
    """Return what (C,) channels that reach so far are divided by."""
    rows = [np.abs(linear.weight.values).max(axis=1) for linear in fed]
    weights = np.maximum(np.max(rows, axis=0), _LEAST)
    factor: Vector = np.maximum(reach, _LEAST) ** alpha / weights ** (1 - alpha)
    return factor.astype(np.float64)


def _scale(norm: Node, products: list[Node], factor: Vector, names: Names) -> None:
    for index in range(1, len(norm.inputs)):
        give(norm, index, norm.inputs[index].values / factor, names)
    for node in products:
        give(node, 1, node.inputs[1].values * factor[:, None], names)


def _scale_input(graph: Graph, linear: Linear, factor: Vector, names: Names) -> None:
    """Divide what a linear reads; other readers of the tensor keep it as it was."""
    product = linear.product
    product.inputs[0] = pointwise(graph, "Mul", linear, 1 / factor, names)
    give(product, 1, product.inputs[1].values * factor[:, None], names)
