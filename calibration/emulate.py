"""Run bfloat16 where the runtime has no kernels for it: round every tensor, compute in float32.

ONNX Runtime's CPU provider runs float16 graphs the same way, with casts around float32 kernels;
for bfloat16 it has the casts and lacks the kernels.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from calibration.casts import FLOAT32, HALVES, insert_cast, onnx_type
from calibration.graph_files import Graph, Names

BFLOAT16 = HALVES["bf16"]


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
    rounded = False
    for node in list(graph.nodes):
        for tensor in list(node.outputs):
            if tensor.dtype != BFLOAT16:
                continue
            rounded = True
            readers = list(tensor.outputs)
            tensor.dtype = FLOAT32
            if node.op == "Cast":
                node.attrs["to"] = onnx_type(FLOAT32)
            low = insert_cast(graph, tensor, BFLOAT16, name=names.new(f"{tensor.name}/low"))
            back = insert_cast(graph, low, FLOAT32, name=names.new(f"{tensor.name}/rounded"))
            for reader in readers:
                for place, found in enumerate(reader.inputs):
                    if found is tensor:
                        reader.inputs[place] = back
            graph.outputs = [back if found is tensor else found for found in graph.outputs]
    for tensor in graph.inputs:
        if tensor.dtype == BFLOAT16:
            tensor.dtype = FLOAT32
    graph.toposort()
    return rounded
