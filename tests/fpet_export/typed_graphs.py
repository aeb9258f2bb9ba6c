"""Typed graphs of a tiny merged ViT: half precision, and quantized by hand as NVIDIA's rules ask.

The Q/DQ pairs have float16 scales (opset 19 and later): one on the input of each linear of a
block, one per output channel on its weight, and one each on q, k, v and the softmax output.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from fpet_export.graph.freeze import FrozenVit, typed
from fpet_export.graph.options import FreezeOptions
from fpet_export.graph.to_onnx import to_onnx
from fpet_export.model.fold import fold
from tests.fpet_export.tiny import MEAN, STD, adapted, checkpoint_of, spec_of

DEPTH, MERGE_BLOCK = 4, 1
KINDS = {"int8": (TensorProto.INT8, 127.0), "fp8": (TensorProto.FLOAT8E4M3FN, 448.0)}


def write_graph(path: Path, dtype: torch.dtype = torch.float16) -> Path:
    """Export a ViT of width 64 with four blocks that merges after the second: 17 to 9 tokens."""
    spec = spec_of(depth=DEPTH)
    folded, _ = fold(adapted(spec, checkpoint_of(spec, merge_block=MERGE_BLOCK)))
    module = FrozenVit(folded, FreezeOptions(last_block="all-tokens"), MEAN, STD).eval()
    to_onnx(module if dtype == torch.float32 else typed(module, dtype), path, opset=20)
    return path


def quantize(graph: Path, path: Path, kind: str = "int8") -> Path:
    """Write a copy of a half precision graph with Q/DQ pairs; the scales are made up."""
    model = onnx.load(str(graph))
    pairs = _Pairs(model, kind)
    for node in list(model.graph.node):
        module = node.name.rpartition("/")[0]
        parts = module.split("/")
        if node.op_type != "MatMul" or parts[0] != "blocks" or parts[2] == "merge":
            continue
        if parts[2:] == ["attn"]:  # scores and mixing: both sides are activations
            for side in (0, 1):
                node.input[side] = pairs.activation(node.input[side], f"{node.name}/{side}")
        else:
            node.input[0] = pairs.activation(node.input[0], module)
            node.input[1] = pairs.weight(node.input[1], f"{module}/weight")
    pairs.insert()
    onnx.save(model, str(path))
    return path


class _Pairs:
    """Makes Q/DQ pairs, each tensor's once, and puts them behind what writes the tensor."""

    def __init__(self, model: onnx.ModelProto, kind: str) -> None:
        self.graph = model.graph
        self.type, self.largest = KINDS[kind]
        self.weights = {tensor.name: tensor for tensor in model.graph.initializer}
        self.writers = {name: node for node in model.graph.node for name in node.output}
        self.made: dict[str, list[onnx.NodeProto]] = {}

    def activation(self, tensor: str, path: str) -> str:
        of_softmax = self.writers[tensor].op_type == "Softmax"
        return self._pair(tensor, path, np.float16(1 / self.largest if of_softmax else 0.05))

    def weight(self, tensor: str, path: str) -> str:
        value = numpy_helper.to_array(self.weights[tensor]).astype(np.float32)
        scale = np.maximum(np.abs(value).max(0) / self.largest, 2.0**-14)
        return self._pair(tensor, path, scale.astype(np.float16), axis=1)

    def _pair(
        self, tensor: str, path: str, scale: np.float16 | np.ndarray, axis: int | None = None
    ) -> str:
        back = f"{tensor}_dequantized"
        if tensor not in self.made:
            shape = list(np.shape(scale))
            names = f"{path}/scale", f"{path}/zero"
            zeros = bytes(int(np.prod(shape)))
            self.graph.initializer.append(numpy_helper.from_array(np.asarray(scale), names[0]))
            self.graph.initializer.append(
                helper.make_tensor(names[1], self.type, shape, zeros, raw=True)
            )
            between = f"{tensor}_quantized"
            pair = [
                helper.make_node(operator, [source, *names], [to], f"{path}/{operator}")
                for operator, source, to in (
                    ("QuantizeLinear", tensor, between),
                    ("DequantizeLinear", between, back),
                )
            ]
            for node in pair if axis is not None else ():
                node.attribute.append(helper.make_attribute("axis", axis))
            self.made[tensor] = pair
        return back

    def insert(self) -> None:
        ordered = [node for name in self.weights for node in self.made.get(name, ())]
        for node in self.graph.node:
            ordered += [node, *(n for name in node.output for n in self.made.get(name, ()))]
        del self.graph.node[:]
        self.graph.node.extend(ordered)
