"""Q/DQ pairs where TensorRT fuses them and a ViT survives them.

Placement, each point measured by the kernels of TensorRT-RTX 1.7.1:

* The input of a linear, once per tensor: all its consumers share the pair. LayerNormalization
  absorbs the quantization of its own output.
* The weight, one scale an output channel, as float constant, Q and DQ. Stored as INT8 with a DQ
  alone, a fused qkv projection silently runs in half precision.
* q, k and v directly before the products, and the softmax output. The key bias stays in half
  precision and fuses. (FP8 attention of 17 tokens stays three kernels, of 33 it is one.)
* Nothing between a MatMul and its bias: that breaks the fusion.

Scales have the type of the graph, which makes DequantizeLinear give that type.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from calibration.grids import Grid
from calibration.policy import Policy
from calibration.roles import attentions, linears
from engines.onnx_graph.files import Graph, Names, Node, Tensor, module_path


def insert(
    graph: Graph,
    policy: Policy,
    amax: Mapping[str, float],
    grid: Grid,
    scales: Mapping[str, NDArray[Any]] | None = None,
) -> None:
    """Quantize `graph`, in place.

    Args:
        graph: Typed before: the pairs take the type of the tensor they stand at.
        policy: What is quantized.
        amax: Largest magnitude kept, by tensor name.
        grid: INT8 or FP8.
        scales: (out,) of weights that are rounded already, by linear; others are scaled by their
            largest magnitude.

    Raises:
        KeyError: A tensor of the policy has no amax.
    """
    pairs = _Pairs(graph, grid)
    active = set(policy.active)
    known = scales or {}
    for linear in linears(graph):
        if linear.name in active:
            node = linear.product
            scale = grid.scale(amax[linear.activation.name], linear.activation.dtype)
            node.inputs[0] = pairs.around(linear.activation, scale, beside=node)
            node.inputs[1] = pairs.weight(linear.weight, linear.name, known.get(linear.name))
    for attention in attentions(graph):
        if attention.name not in active:
            continue
        for node in (attention.scores, attention.mix):
            for index, tensor in enumerate(node.inputs):
                scale = grid.scale(amax[tensor.name], tensor.dtype)
                node.inputs[index] = pairs.around(tensor, scale, beside=node)
    graph.toposort()


class _Pairs:
    """Makes Q/DQ pairs, each tensor's once."""

    def __init__(self, graph: Graph, grid: Grid) -> None:
        self._graph, self._grid = graph, grid
        self._names = Names(graph)
        self._made: dict[str, Tensor] = {}

    def around(self, tensor: Tensor, scale: NDArray[Any], *, beside: Node) -> Tensor:
        """Return `tensor` quantized and dequantized, one scale for all of it."""
        if tensor.name not in self._made:
            path = module_path(beside)
            self._made[tensor.name] = self._pair(tensor, scale, f"{path}/{tensor.name}", axis=None)
        return self._made[tensor.name]

    def weight(self, tensor: Tensor, path: str, scale: NDArray[Any] | None) -> Tensor:
        """Return an (in, out) constant quantized and dequantized, one scale an output."""
        if scale is None:
            largest = np.abs(tensor.values.astype(np.float32)).max(axis=0)
            scale = self._grid.scale(largest, tensor.dtype)
        return self._pair(tensor, scale, f"{path}/weight", axis=1)

    def _pair(self, tensor: Tensor, scale: NDArray[Any], name: str, *, axis: int | None) -> Tensor:
        result = tensor
        for op, dtype in (("QuantizeLinear", self._grid.dtype), ("DequantizeLinear", scale.dtype)):
            source, made = result, self._names.new(f"{name}/{op}")
            result = gs.Variable(made, dtype=dtype, shape=tensor.shape)
            self._graph.layer(
                name=made,
                op=op,
                inputs=[source, *self._constants(scale, name)],
                outputs=[result],
                attrs={} if axis is None else {"axis": axis},
            )
        return result

    def _constants(self, scale: NDArray[Any], name: str) -> list[Tensor]:
        zero = np.zeros(scale.shape, self._grid.dtype)
        return [
            gs.Constant(self._names.new(f"{name}/scale"), np.asarray(scale)),
            gs.Constant(self._names.new(f"{name}/zero_point"), zero),
        ]
