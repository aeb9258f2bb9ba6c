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
from collections.abc import Iterator, Mapping

import numpy as np
import onnx_graphsurgeon as gs

from calibration.roles import Linear, attentions, linears
from calibration.table import CalibrationTable, Rewrites, Vector
from engines import precisions
from engines.errors import InputError
from engines.onnx_graph.files import Graph, Names, Node, Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class Alphas:
    """How much of a channel's range moves into the weights (SmoothQuant's alpha).

    Attributes:
        norms: Between a norm and its linears.
        values: Between the values and proj; None leaves them alone.
        second: Between GELU and fc2.
    """

    norms: float
    values: float | None
    second: float


ALPHAS = {
    precisions.INT8: Alphas(norms=0.8, values=0.8, second=0.8),
    precisions.FP8: Alphas(norms=0.5, values=None, second=0.65),
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
    makers = {name: (linear, projection) for name, linear, projection in _value_makers(graph)}
    norms = {norm.name: (norm, products) for norm, products in _norms(graph)}
    widths = {name: len(projection.weight.values) for name, (_, projection) in makers.items()}
    _require_widths(rewrites.values, widths)
    _require_widths(rewrites.value_factors, widths)
    _require_widths(
        rewrites.factors, {name: norm.inputs[1].shape[0] for name, (norm, _) in norms.items()}
    )
    second = {linear.name: linear for linear in _second_linears(graph)}
    _require_widths(
        rewrites.inputs, {name: linear.weight.shape[0] for name, linear in second.items()}
    )
    names = Names(graph)
    for name, mean in rewrites.values.items():
        _centre(*makers[name], mean, names)
    for name, factor in rewrites.value_factors.items():
        _scale_values(*makers[name], factor, names)
    for name, factor in rewrites.factors.items():
        _scale(*norms[name], factor, names)
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
    for name, linear, projection in _value_makers(graph):
        record = table.records.get(f"{name}/input")
        mixed = table.records.get(f"{projection.name}/input")
        if record is not None and mixed is not None:
            width = len(projection.weight.values)
            weight = linear.weight.values[:, -width:].astype(np.float64)
            bias = bias_of(linear).values[-width:].astype(np.float64)
            values[name] = mean = record.channel_mean @ weight + bias
            if alphas.values is not None:
                reach = np.maximum(mean - mixed.channel_lowest, mixed.channel_highest - mean)
                value_factors[name] = _factors(reach, [projection], alphas.values)
    factors = {}
    by_product = {id(linear.product): linear for linear in linears(graph)}
    for norm, products in _norms(graph):
        fed = [by_product[id(node)] for node in products if id(node) in by_product]
        seen = [table.records.get(f"{linear.name}/input") for linear in fed]
        record = next((one for one in seen if one is not None), None)
        if record is not None:
            factors[norm.name] = _factors(record.channel_largest, fed, alphas.norms)
    inputs = {}
    for linear in _second_linears(graph):
        record = table.records.get(f"{linear.name}/input")
        if record is not None:
            inputs[linear.name] = _factors(record.channel_largest, [linear], alphas.second)
    return Rewrites(values, factors, inputs, value_factors)


def bias_of(linear: Linear) -> Tensor:
    """Return the (out,) constant that is added behind a linear's product."""
    addition, index = _bias_input(linear)
    return addition.inputs[index]


def add_to_bias(linear: Linear, values: Vector, names: Names) -> None:
    """Add (out,) to what is added behind a linear's product."""
    _give(*_bias_input(linear), bias_of(linear).values.astype(np.float64) + values, names)


def _bias_input(linear: Linear) -> tuple[Node, int]:
    (addition,) = linear.product.outputs[0].outputs
    constants = [isinstance(tensor, gs.Constant) for tensor in addition.inputs]
    return addition, constants.index(True)


def _value_makers(graph: Graph) -> Iterator[tuple[str, Linear, Linear]]:
    """Yield every linear whose last outputs are values, and the projection behind the mixing.

    Left out is one whose values are not all that is mixed (prompts stand beside them), whose
    outputs or whose mixed values another node reads (the gate of an update), or behind whose mixing
    more than a movement stands (a norm).
    """
    by_name = {linear.name: linear for linear in linears(graph)}
    mixed = {attention.name: attention.mix for attention in attentions(graph)}
    for name, linear in by_name.items():
        block = name.rpartition("/")[0]
        projection, mix = by_name.get(f"{block}/proj"), mixed.get(block)
        if linear.kind not in ("qkv", "key_value") or projection is None or mix is None:
            continue
        output = _bias_input(linear)[0].outputs[0]
        read_once = len(projection.activation.outputs) == 1
        read_once = read_once and _source(projection.activation) is mix.outputs[0]
        only_moved = all(node.op in _MOVES for node in output.outputs)
        if read_once and only_moved and _source(mix.inputs[1]) is output:
            yield name, linear, projection


_MOVES = ("Reshape", "Transpose", "Split", "Slice", "Gather", "Squeeze", "Unsqueeze", "Identity")
"""Operators that only move numbers."""


def _source(tensor: Tensor) -> Tensor:
    """Return the tensor whose numbers these are, moved."""
    while tensor.inputs and tensor.inputs[0].op in _MOVES:
        tensor = tensor.inputs[0].inputs[0]
    return tensor


def _norms(graph: Graph) -> Iterator[tuple[Node, list[Node]]]:
    """Yield every norm that only products with constant weights read, and those products."""
    for norm in graph.nodes:
        if norm.op == "LayerNormalization":
            readers = list(norm.outputs[0].outputs)
            if readers and all(
                node.op == "MatMul" and isinstance(node.inputs[1], gs.Constant) for node in readers
            ):
                yield norm, readers


def _second_linears(graph: Graph) -> list[Linear]:
    """Return the layers fc2, but those behind a norm, which takes the inverse itself."""
    normed = {id(norm.outputs[0]) for norm, _ in _norms(graph)}
    found = [linear for linear in linears(graph) if linear.kind == "fc2"]
    return [linear for linear in found if id(linear.activation) not in normed]


def _centre(linear: Linear, projection: Linear, mean: Vector, names: Names) -> None:
    shifted = np.zeros(bias_of(linear).shape)
    shifted[-len(mean) :] -= mean
    add_to_bias(linear, shifted, names)
    add_to_bias(projection, mean @ projection.weight.values.astype(np.float64), names)


def _scale_values(linear: Linear, projection: Linear, factor: Vector, names: Names) -> None:
    divisor = np.ones(bias_of(linear).shape)
    divisor[-len(factor) :] = factor
    _give(linear.product, 1, linear.weight.values / divisor, names)
    _give(*_bias_input(linear), bias_of(linear).values / divisor, names)
    _give(projection.product, 1, projection.weight.values * factor[:, None], names)


def _factors(reach: Vector, fed: list[Linear], alpha: float) -> Vector:
    """Return what (C,) channels that reach so far are divided by."""
    rows = [np.abs(linear.weight.values).max(axis=1) for linear in fed]
    weights = np.maximum(np.max(rows, axis=0), _LEAST)
    factor: Vector = np.maximum(reach, _LEAST) ** alpha / weights ** (1 - alpha)
    return factor.astype(np.float64)


def _scale(norm: Node, products: list[Node], factor: Vector, names: Names) -> None:
    for index in range(1, len(norm.inputs)):
        _give(norm, index, norm.inputs[index].values / factor, names)
    for node in products:
        _give(node, 1, node.inputs[1].values * factor[:, None], names)


def _scale_input(graph: Graph, linear: Linear, factor: Vector, names: Names) -> None:
    """Divide what a linear reads; other readers of the tensor keep it as it was."""
    product = linear.product
    product.inputs[0] = pointwise(graph, "Mul", linear, 1 / factor, names)
    _give(product, 1, product.inputs[1].values * factor[:, None], names)


def pointwise(graph: Graph, op: str, linear: Linear, values: Vector, names: Names) -> Tensor:
    """Return what a linear reads after an operator with a (C,) constant; nobody reads it yet."""
    name = names.new(f"{linear.name}/{op}")
    source = linear.activation
    result = gs.Variable(name, dtype=source.dtype, shape=source.shape)
    constant = gs.Constant(names.new(f"{name}/channels"), values.astype(np.float32))
    graph.layer(name=name, op=op, inputs=[source, constant], outputs=[result])
    return result


def _give(node: Node, index: int, values: Vector, names: Names) -> None:
    """Replace a node's constant; another node that reads the same one, as it may, keeps it."""
    tensor = node.inputs[index]
    narrow = values.astype(np.float32)
    if len(tensor.outputs) == 1:
        tensor.values = narrow
    else:
        node.inputs[index] = gs.Constant(names.new(tensor.name), narrow)
