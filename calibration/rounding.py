"""How far rounding alone moves the answers of a graph: its float32 form with modelled errors.

Every operation in half precision returns its result times (1 + d), with |d| at most the unit
roundoff u of the type. A correct program has other errors than another one, but errors of that
size. So the float32 graph runs once more with d drawn evenly from -u to u after every operation
that rounds, and for every weight, outside the island that stays float32. How far its answers move
is what rounding explains, for this network on these images; nothing of the typed graph goes into
it, so whatever is wrong there is not excused by it.

Source: the standard model of floating-point arithmetic with random errors, N. J. Higham and
T. Mary, "A new approach to probabilistic rounding error analysis", SIAM J. Sci. Comput. 41, 2019.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from calibration.casts import FLOAT32, float32_island
from engines import precisions
from engines.onnx_graph.files import Graph, Names, Tensor

_EXACT = frozenset({
    "Cast", "Concat", "Expand", "Flatten", "Gather", "Identity", "Max", "Min", "Neg", "Relu",
    "Reshape", "Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze",
})  # fmt: skip
"""Operations that move numbers or choose among them."""


def add_rounding_errors(graph: Graph, precision: str, *, seed: int = 0) -> None:
    """Give every rounded tensor of a float32 graph an error, in place.

    Args:
        graph: As exported.
        precision: A half precision.
        seed: Seed of the errors.
    """
    unit = precisions.PRECISIONS[precision].unit_roundoff
    assert unit is not None, "a half precision"
    generator = np.random.default_rng(seed)
    names = Names(graph)
    island = float32_island(graph)
    outside = [node for node in graph.nodes if id(node) not in island]
    read = {id(tensor) for node in outside for tensor in node.inputs}
    for tensor in list(graph.tensors().values()):
        if isinstance(tensor, gs.Constant) and tensor.dtype == FLOAT32 and id(tensor) in read:
            errors = generator.uniform(-unit, unit, tensor.shape)
            tensor.values = (tensor.values * (1 + errors)).astype(np.float32)
    rounded = [
        tensor
        for node in outside
        if node.op not in _EXACT
        for tensor in node.outputs
        if tensor.dtype == FLOAT32
    ]
    inputs = [tensor for tensor in graph.inputs if tensor.dtype == FLOAT32]
    for number, tensor in enumerate([*inputs, *rounded]):
        _disturb(graph, tensor, unit, float(seed * 100_003 + number), names)
    graph.toposort()


def _disturb(graph: Graph, tensor: Tensor, unit: float, seed: float, names: Names) -> None:
    """Let everything that reads `tensor` read it with a relative error of at most `unit`."""
    readers = [(node, index) for node in tensor.outputs for index in _indices(node, tensor)]
    stem = names.new(f"{tensor.name}/rounding")
    error, part, sum_ = (
        gs.Variable(names.new(f"{stem}/{word}"), dtype=FLOAT32, shape=tensor.shape)
        for word in ("error", "part", "sum")
    )
    attributes = {"low": -unit, "high": unit, "seed": seed}
    graph.layer(
        name=error.name, op="RandomUniformLike", inputs=[tensor], outputs=[error], attrs=attributes
    )
    graph.layer(name=part.name, op="Mul", inputs=[tensor, error], outputs=[part])
    graph.layer(name=sum_.name, op="Add", inputs=[tensor, part], outputs=[sum_])
    for node, index in readers:
        node.inputs[index] = sum_
    graph.outputs = [sum_ if found is tensor else found for found in graph.outputs]


def _indices(node: object, tensor: Tensor) -> list[int]:
    return [index for index, found in enumerate(node.inputs) if found is tensor]  # type: ignore[attr-defined]
