"""What makes the inputs of linears, and which of it can take a constant over.

A norm's channels and those of the values are scaled or moved by what makes them, at no cost; what
reads them takes the inverse. GELU has no constants, so what is done behind it stands in the graph.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_graphsurgeon as gs

from calibration.roles import Linear, attentions, linears
from calibration.table import Vector
from engines.onnx_graph.files import Graph, Names, Node, Tensor


def bias_of(product: Node) -> Tensor:
    """Return the (out,) constant that is added behind a product."""
    addition, index = bias_input(product)
    return addition.inputs[index]


def add_to_bias(product: Node, values: Vector, names: Names) -> None:
    """Add (out,) to what is added behind a product."""
    give(*bias_input(product), bias_of(product).values.astype(np.float64) + values, names)


def bias_input(product: Node) -> tuple[Node, int]:
    """Return what adds a constant behind a product, and which of its inputs the constant is."""
    (addition,) = product.outputs[0].outputs
    constants = [isinstance(tensor, gs.Constant) for tensor in addition.inputs]
    return addition, constants.index(True)


def has_bias(product: Node) -> bool:
    """Return whether a constant is added behind a product, and nothing else reads it."""
    readers = product.outputs[0].outputs
    return (
        len(readers) == 1
        and readers[0].op == "Add"
        and any(isinstance(tensor, gs.Constant) for tensor in readers[0].inputs)
    )


def value_makers(graph: Graph) -> Iterator[tuple[str, Linear, Linear]]:
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
        output = bias_input(linear.product)[0].outputs[0]
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


def norms(graph: Graph) -> Iterator[tuple[Node, list[Node]]]:
    """Yield every norm that only products with constant weights read, and those products."""
    for norm in graph.nodes:
        if norm.op == "LayerNormalization":
            readers = list(norm.outputs[0].outputs)
            if readers and all(
                node.op == "MatMul" and isinstance(node.inputs[1], gs.Constant) for node in readers
            ):
                yield norm, readers


def second_linears(graph: Graph) -> list[Linear]:
    """Return the layers fc2, but those behind a norm, which takes the inverse itself."""
    normed = {id(norm.outputs[0]) for norm, _ in norms(graph)}
    found = [linear for linear in linears(graph) if linear.kind == "fc2"]
    return [linear for linear in found if id(linear.activation) not in normed]


def give(node: Node, index: int, values: Vector, names: Names) -> None:
    """Replace a node's constant; another node that reads the same one, as it may, keeps it."""
    tensor = node.inputs[index]
    narrow = values.astype(np.float32)
    if len(tensor.outputs) == 1:
        tensor.values = narrow
    else:
        node.inputs[index] = gs.Constant(names.new(tensor.name), narrow)


def pointwise(graph: Graph, op: str, linear: Linear, values: Vector, names: Names) -> Tensor:
    """Return what a linear reads after an operator with a (C,) constant; nobody reads it yet."""
    name = names.new(f"{linear.name}/{op}")
    source = linear.activation
    result = gs.Variable(name, dtype=source.dtype, shape=source.shape)
    constant = gs.Constant(names.new(f"{name}/channels"), values.astype(np.float32))
    graph.layer(name=name, op=op, inputs=[source, constant], outputs=[result])
    return result
