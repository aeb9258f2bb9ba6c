"""INT8 linears as CPU runtimes fuse them: one integer product with an integer bias.

Each `MatMul, Add` becomes `Gemm(DQ(Q(x)), DQ(weight), DQ(bias))`. The activation is unsigned with
a zero point, because GELU gives values from -0.17 upward; the weight is signed, one scale an
output channel; the bias is INT32 in steps of both scales. ONNX Runtime makes one QGemm of it and
OpenVINO one fully connected layer. With a float bias ONNX Runtime fuses nothing and the graph is
slower than float32 (measured, ONNX Runtime 1.31: 1.4 to 1.6 times the plain ViT).

On a CPU without VNNI the product of unsigned and signed bytes sums pairs in 16 bits and clips
them. `REDUCED` weights cannot reach that: 2 · 255 · 64 < 2^15.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_graphsurgeon as gs

from calibration.policy import Policy
from calibration.roles import Linear, linears
from engines.onnx_graph.files import Graph, Names, Tensor

FULL, REDUCED = 127, 64
"""Largest magnitude of an INT8 weight; `REDUCED` is exact on every x86 CPU."""


def insert(
    graph: Graph,
    policy: Policy,
    ranges: Mapping[str, tuple[float, float]],
    *,
    largest_weight: int,
) -> None:
    """Quantize the linears of a float32 graph, in place.

    Args:
        graph: As exported.
        policy: What is quantized; attentions stay float32, which is faster on a CPU.
        ranges: Smallest and largest value kept, by tensor name.
        largest_weight: `FULL` or `REDUCED`.

    Raises:
        KeyError: A tensor of the policy has no range.
    """
    names = Names(graph)
    made: dict[str, tuple[Tensor, np.float32]] = {}
    for linear in linears(graph):
        if linear.name not in policy.active:
            continue
        activation = linear.activation
        if activation.name not in made:
            made[activation.name] = _quantized_rows(graph, linear, ranges[activation.name], names)
        rows, scale = made[activation.name]
        _replace(graph, linear, rows, scale, largest_weight, names)
    graph.cleanup().toposort()


def _quantized_rows(
    graph: Graph, linear: Linear, kept: tuple[float, float], names: Names
) -> tuple[Tensor, np.float32]:
    """Return the activation as (rows, in), quantized and dequantized, and its scale."""
    low, high = min(kept[0], 0.0), max(kept[1], 0.0)
    scale = np.float32(max(high - low, 1e-8) / 255)
    zero = np.uint8(np.clip(np.rint(-low / scale), 0, 255))
    width = linear.weight.shape[0]
    path = f"{linear.name}/input"
    flat = _node(
        graph,
        names,
        "Reshape",
        path,
        [linear.activation, _constant(names, f"{path}/shape", [-1, width])],
    )
    parameters = [
        _constant(names, f"{path}/scale", scale),
        _constant(names, f"{path}/zero_point", zero),
    ]
    quantized = _node(graph, names, "QuantizeLinear", path, [flat, *parameters])
    return _node(graph, names, "DequantizeLinear", path, [quantized, *parameters]), scale


def _replace(
    graph: Graph, linear: Linear, rows: Tensor, scale: np.float32, limit: int, names: Names
) -> None:
    (addition,) = linear.product.outputs[0].outputs
    bias = next(t for t in addition.inputs if isinstance(t, gs.Constant))
    weight = linear.weight.values
    # The floor keeps the INT32 bias in range where a column of weights is almost zero.
    steps = np.maximum(
        np.abs(weight).max(axis=0) / limit, np.abs(bias.values) / (scale * 2.0**30)
    ).astype(np.float32)
    steps[steps == 0] = 1.0
    both = (scale * steps).astype(np.float32)
    stored = np.clip(np.rint(weight / steps), -limit, limit).astype(np.int8)
    whole = np.rint(bias.values / both).astype(np.int32)
    operands = []
    for part, values, part_scale, axis in (
        ("weight", stored, steps, 1),
        ("bias", whole, both, 0),
    ):
        path = f"{linear.name}/{part}"
        inputs = [
            _constant(names, f"{path}/values", values),
            _constant(names, f"{path}/scale", part_scale),
            _constant(names, f"{path}/zero_point", np.zeros(len(part_scale), values.dtype)),
        ]
        operands.append(_node(graph, names, "DequantizeLinear", path, inputs, axis=axis))
    product = _node(graph, names, "Gemm", linear.name, [rows, *operands])
    result = addition.outputs[0]
    shape = [-1, *(int(extent) for extent in result.shape[1:])]
    addition.outputs.clear()
    graph.layer(
        name=names.new(f"{linear.name}/Reshape"),
        op="Reshape",
        inputs=[product, _constant(names, f"{linear.name}/shape", shape)],
        outputs=[result],
    )


def _node(
    graph: Graph, names: Names, op: str, path: str, inputs: list[Tensor], **attributes: int
) -> Tensor:
    """Append a node and return its only output."""
    name = names.new(f"{path}/{op}")
    dtype = np.uint8 if op == "QuantizeLinear" else np.float32
    output = gs.Variable(name, dtype=np.dtype(dtype))
    graph.layer(name=name, op=op, inputs=inputs, outputs=[output], attrs=attributes)
    return output


def _constant(names: Names, name: str, values: object) -> Tensor:
    return gs.Constant(names.new(name), np.asarray(values))
