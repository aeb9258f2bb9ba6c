"""bfloat16 by rounding: every tensor as ml_dtypes rounds it."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_graphsurgeon as gs
from hypothesis import given
from hypothesis import strategies as st

from calibration.casts import cast_graph
from calibration.emulate import emulate_bfloat16
from engines.onnx_graph.files import Graph, read_graph, write_graph
from tests.calibration.exports import feed_of, images_of, run

BF16 = np.dtype(ml_dtypes.bfloat16)


def low(values: np.ndarray) -> np.ndarray:
    return np.asarray(values, np.float32).astype(BF16).astype(np.float32)


def small_graph(*, input_type: np.dtype = BF16, output_type: np.dtype = BF16) -> Graph:
    """x -> softmax(relu(x · w) + b) · 1.7, in bfloat16 between its ends."""
    generator = np.random.default_rng(0)
    weight = generator.normal(size=(8, 8)).astype(np.float32).astype(BF16)
    bias = generator.normal(size=8).astype(np.float32).astype(BF16)
    x = gs.Variable("x", dtype=input_type, shape=(4, 8))
    graph = gs.Graph(inputs=[x], opset=20, name="small")

    def node(op: str, inputs: list[object], name: str, **attrs: object) -> gs.Variable:
        result = gs.Variable(name, dtype=BF16, shape=(4, 8))
        graph.layer(op=op, name=f"m/{op}_{name}", inputs=inputs, outputs=[result], attrs=attrs)
        return result

    first: gs.Variable = x
    if input_type != BF16:
        first = node("Cast", [x], "narrow", to=onnx.TensorProto.BFLOAT16)
    product = node("MatMul", [first, gs.Constant("w", weight)], "product")
    added = node("Add", [node("Relu", [product], "positive"), gs.Constant("b", bias)], "added")
    shares = node("Softmax", [added], "shares", axis=-1)
    y = node("Mul", [shares, gs.Constant("f", np.asarray(1.7, BF16))], "y")
    if output_type != BF16:
        wide = gs.Variable("wide", dtype=output_type, shape=(4, 8))
        graph.layer(op="Cast", name="m/wide", inputs=[y], outputs=[wide], attrs={"to": 1})
        y = wide
    graph.outputs = [y]
    return graph


def by_hand(x: np.ndarray, graph: Graph) -> np.ndarray:
    weight, bias, factor = (
        graph.tensors()[name].values.astype(np.float32) for name in ("w", "b", "f")
    )
    added = low(low(np.maximum(low(low(x) @ weight), 0)) + bias)
    raised = np.exp(added - added.max(axis=-1, keepdims=True), dtype=np.float32)
    return low(low(raised / raised.sum(axis=-1, keepdims=True)) * factor)


@given(st.integers(0, 1000))
def test_it_equals_rounding_every_tensor_by_hand(seed: int) -> None:
    x = np.random.default_rng(seed).normal(size=(4, 8)).astype(np.float32) * 3
    wide = np.dtype(np.float32)
    expected = by_hand(x, small_graph())
    for input_type, output_type in ((wide, wide), (wide, BF16), (BF16, BF16)):
        graph = small_graph(input_type=input_type, output_type=output_type)

        assert emulate_bfloat16(graph)
        model = gs.export_onnx(graph)
        model.ir_version = 10
        (found,) = run(model, x, [model.graph.output[0].name])

        # One step of bfloat16 where exp, or the order of a sum, falls on the other side of a tie.
        assert np.abs(found - expected).max() <= 2.0**-7 * np.abs(expected).max()
        assert (found == expected).mean() > 0.9
        assert np.array_equal(found, low(found))


def test_without_rounding_it_would_differ() -> None:
    """The negative control."""
    x = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32) * 3
    graph = small_graph(input_type=np.dtype(np.float32))
    expected = by_hand(x, graph)
    weight, bias, factor = (
        graph.tensors()[name].values.astype(np.float32) for name in ("w", "b", "f")
    )
    added = np.maximum(x @ weight, 0) + bias
    shares = np.exp(added - added.max(axis=-1, keepdims=True))
    plain = shares / shares.sum(axis=-1, keepdims=True) * factor

    assert (plain == expected).mean() < 0.2


def test_no_bfloat16_tensor_but_the_rounded_ones_is_left(merged: Path) -> None:
    graph = read_graph(merged)
    cast_graph(graph, "bf16", io="fp32")
    before = [t.name for t in graph.tensors().values() if t.dtype == BF16 and t.inputs]

    assert emulate_bfloat16(graph)

    left = {t.name for t in graph.tensors().values() if t.dtype == BF16}
    assert left == {f"{name}/low" for name in before}


def test_a_float16_graph_is_left_as_it_is(merged: Path, tmp_path: Path) -> None:
    graph = read_graph(merged)
    cast_graph(graph, "fp16", io="fp32")
    write_graph(graph, tmp_path / "before.onnx")

    assert not emulate_bfloat16(graph)

    write_graph(graph, tmp_path / "after.onnx")
    assert (tmp_path / "before.onnx").read_bytes() == (tmp_path / "after.onnx").read_bytes()


def test_bfloat16_is_nearer_to_itself_than_to_float32(merged: Path, tmp_path: Path) -> None:
    """Rounding in a whole network is visible, and small."""
    graph = read_graph(merged)
    cast_graph(graph, "bf16", io="fp32")
    emulate_bfloat16(graph)
    write_graph(graph, tmp_path / "low.onnx")
    feed = feed_of(merged, images_of(4))

    (found,), (exact,) = run(tmp_path / "low.onnx", feed), run(merged, feed)

    difference = np.abs(found - exact).max() / np.abs(exact).max()
    assert 2.0**-10 < difference < 0.1
