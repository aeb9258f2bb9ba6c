"""Shapes that an exported graph computes although all but the batch is known, as constants.

With a dynamic batch PyTorch's exporter computes the shape of every transposed key at run time, in
eight operators an attention. A plain model that carries them is slower than it need be, and no fair
baseline.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir
from onnx_ir.passes.common import RemoveUnusedNodesPass, ShapeInferencePass


def fix_shapes(model: Any) -> int:
    """Replace computed shapes of Reshape nodes by constants, in place; return how many there were.

    Args:
        model: An `onnx_ir.Model`; a shape with more than one open extent stays as it is.
    """
    ShapeInferencePass()(model)  # follows the values of shapes; the exporter itself does not
    fixed = 0
    for node in list(model.graph):
        if node.op_type != "Reshape" or node.inputs[1].const_value is not None:
            continue
        shape = node.outputs[0].shape
        if shape is None:
            continue
        extents = [extent if isinstance(extent, int) else -1 for extent in shape]
        if extents.count(-1) > 1:
            continue
        value = onnx_ir.Value(
            name=f"{node.outputs[0].name}_shape",
            const_value=onnx_ir.tensor(np.array(extents, np.int64)),
        )
        model.graph.register_initializer(value)
        node.replace_input_with(1, value)
        fixed += 1
    RemoveUnusedNodesPass()(model)
    return fixed
