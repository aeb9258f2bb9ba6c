"""Run bfloat16 where the runtime has no kernels for it: round every tensor, compute in float32.

ONNX Runtime's CPU provider runs float16 graphs the same way, with casts around float32 kernels;
for bfloat16 it has the casts and lacks the kernels.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from calibration.casts import FLOAT32, HALVES, insert_cast, onnx_type
from engines.onnx_graph.files import Graph, Names, Tensor
from engines.precisions import BF16

BFLOAT16 = HALVES[BF16]


def emulate_bfloat16(graph: Graph) -> bool:
    """Turn every bfloat16 tensor into a rounded float32 one, in place; return whether any was."""
    names = Names(graph)
    constants = [
        tensor
        for tensor in graph.tensors().values()
        if isinstance(tensor, gs.Constant) and tensor.dtype == BFLOAT16
    ]
    for constant in constants:
        constant.values = constant.values.astype(np.float32)
    made = [*graph.inputs, *(tensor for node in graph.nodes for tensor in node.outputs)]
    low = [tensor for tensor in made if tensor.dtype == BFLOAT16]
    for tensor in low:
        _round(graph, tensor, names)
    graph.toposort()
    return bool(low)


def _round(graph: Graph, tensor: Tensor, names: Names) -> None:
    """Let everything that reads `tensor`, float32 from here on, read it rounded."""
    readers = list(tensor.outputs)
    tensor.dtype = FLOAT32
    for node in tensor.inputs:
        if node.op == "Cast":
            node.attrs["to"] = onnx_type(FLOAT32)
    low = insert_cast(graph, tensor, BFLOAT16, name=names.new(f"{tensor.name}/low"))
    back = insert_cast(graph, low, FLOAT32, name=names.new(f"{tensor.name}/rounded"))
    for reader in readers:
        for index, found in enumerate(reader.inputs):
            if found is tensor:
                reader.inputs[index] = back
    graph.outputs = [back if found is tensor else found for found in graph.outputs]
