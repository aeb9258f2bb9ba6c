"""Graphs that are small enough to build in every test, written node by node."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

WIDTH, HEADS, PATCH, SIDE, CLASSES, BLOCKS = 64, 2, 8, 32, 10, 2
TOKENS = (SIDE // PATCH) ** 2
TinyVit = Callable[..., Path]


class GraphWriter:
    """Collects nodes and seeded random weights of one graph."""

    def __init__(self, dtype: str, seed: int = 0) -> None:
        self.dtype = np.dtype(dtype)
        self.generator = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def weight(self, name: str, *shape: int) -> str:
        value = self.generator.standard_normal(shape) * 0.1
        return self.constant(name, value.astype(self.dtype))

    def constant(self, name: str, value: NDArray[np.generic]) -> str:
        self.weights.append(numpy_helper.from_array(value, name))
        return name

    def node(self, operator: str, *inputs: str, name: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name


def _attention(graph: GraphWriter, tokens: str, block: str) -> str:
    head = WIDTH // HEADS
    shape = graph.constant(f"{block}.shape", np.array([0, TOKENS, HEADS, head]))
    scale = graph.constant(f"{block}.scale", np.array(head**-0.25, graph.dtype))
    parts = {}
    for part in "qkv":
        weight = graph.weight(f"{block}.{part}.weight", WIDTH, WIDTH)
        flat = graph.node("MatMul", tokens, weight, name=f"{block}.{part}.flat")
        split = graph.node("Reshape", flat, shape, name=f"{block}.{part}.split")
        order = [0, 2, 3, 1] if part == "k" else [0, 2, 1, 3]
        parts[part] = graph.node("Transpose", split, name=f"{block}.{part}", perm=order)
    q = graph.node("Mul", parts["q"], scale, name=f"{block}.q.scaled")
    k = graph.node("Mul", parts["k"], scale, name=f"{block}.k.scaled")
    scores = graph.node("MatMul", q, k, name=f"{block}.scores")
    weights = graph.node("Softmax", scores, name=f"{block}.softmax", axis=-1)
    mixed = graph.node("MatMul", weights, parts["v"], name=f"{block}.mixed")
    joined = graph.node("Transpose", mixed, name=f"{block}.joined", perm=[0, 2, 1, 3])
    flat_shape = graph.constant(f"{block}.flat_shape", np.array([0, TOKENS, WIDTH]))
    return graph.node("Reshape", joined, flat_shape, name=f"{block}.attention")


def _norm(graph: GraphWriter, tokens: str, name: str) -> str:
    scale = graph.weight(f"{name}.weight", WIDTH)
    bias = graph.weight(f"{name}.bias", WIDTH)
    return graph.node("LayerNormalization", tokens, scale, bias, name=name, axis=-1)


def _block(graph: GraphWriter, tokens: str, block: str) -> str:
    attention = _attention(graph, _norm(graph, tokens, f"{block}.norm1"), block)
    tokens = graph.node("Add", tokens, attention, name=f"{block}.residual1")
    hidden = graph.node(
        "MatMul",
        _norm(graph, tokens, f"{block}.norm2"),
        graph.weight(f"{block}.fc1.weight", WIDTH, 2 * WIDTH),
        name=f"{block}.fc1",
    )
    active = graph.node("Gelu", hidden, name=f"{block}.gelu")
    back = graph.weight(f"{block}.fc2.weight", 2 * WIDTH, WIDTH)
    fc2 = graph.node("MatMul", active, back, name=f"{block}.fc2")
    return graph.node("Add", tokens, fc2, name=f"{block}.residual2")


def tiny_vit_model(
    *, dtype: str = "float32", batch: int | str = 1, opset: int = 20
) -> onnx.ModelProto:
    """Return a ViT with two blocks: image (B, 3, 32, 32) to logits (B, 10), in `dtype`."""
    graph = GraphWriter(dtype)
    kernel = graph.weight("patch.weight", WIDTH, 3, PATCH, PATCH)
    patches = graph.node("Conv", "image", kernel, name="patch", strides=[PATCH, PATCH])
    shape = graph.constant("patch.shape", np.array([0, WIDTH, TOKENS]))
    flat = graph.node("Reshape", patches, shape, name="patch.flat")
    tokens = graph.node("Transpose", flat, name="tokens", perm=[0, 2, 1])
    for block in range(BLOCKS):
        tokens = _block(graph, tokens, f"block{block}")
    axes = graph.constant("pool.axes", np.array([1]))
    pooled = graph.node("ReduceMean", tokens, axes, name="pooled", keepdims=0)
    graph.node("MatMul", pooled, graph.weight("head.weight", WIDTH, CLASSES), name="logits")
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    proto = helper.make_graph(
        graph.nodes,
        "tiny_vit",
        [helper.make_tensor_value_info("image", kind, [batch, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("logits", kind, [batch, CLASSES])],
        graph.weights,
    )
    return helper.make_model(proto, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


@pytest.fixture(scope="session")
def tiny_vit(tmp_path_factory: pytest.TempPathFactory) -> TinyVit:
    """Write a tiny ViT into a fresh folder: `tiny_vit(dtype=..., batch=..., opset=...)`."""

    def write(**settings: Any) -> Path:
        path = tmp_path_factory.mktemp("tiny") / "vit.onnx"
        onnx.save(tiny_vit_model(**settings), path)
        return path

    return write


@pytest.fixture(scope="session")
def vit_bytes(tiny_vit: TinyVit) -> bytes:
    """The bytes of the tiny ViT."""
    return tiny_vit().read_bytes()


@pytest.fixture(scope="session")
def one_node_model() -> Callable[..., onnx.ModelProto]:
    """Make a model of one node: `one_node_model("Relu", opset=20, shape=[1, 4])`."""

    def make(
        operator: str,
        *,
        opset: int = 20,
        shape: tuple[int | str, ...] = (1, 4),
        domain: str = "",
        **attributes: Any,
    ) -> onnx.ModelProto:
        node = helper.make_node(operator, ["x"], ["y"], name="only", domain=domain, **attributes)
        graph = helper.make_graph(
            [node],
            "one",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        )
        return helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10
        )

    return make
