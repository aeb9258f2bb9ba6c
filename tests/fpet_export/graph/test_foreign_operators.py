"""Graphs of others that resemble what becomes an operator, and mean something else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.helper import make_node, make_tensor_value_info
from onnx.reference import ReferenceEvaluator

from engines.backends._ort.operators import Replaced, use_contrib_operators
from tests.fpet_export.graph.contrib_operators import evaluate

FLOAT = onnx.TensorProto.FLOAT
TOLERANCE = 2e-6
TOKENS, HEADS, WIDTH = 5, 2, 4
CHANNELS = HEADS * WIDTH
Nodes = list[Any]
Constants = dict[str, Any]
Shape = Sequence[int | str]


def random(*shape: int) -> Any:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def model_of(
    nodes: Sequence[Any], constants: Mapping[str, Any], inputs: Mapping[str, Shape], output: str
) -> Any:
    graph = onnx.helper.make_graph(
        nodes,
        "foreign",
        [make_tensor_value_info(name, FLOAT, shape) for name, shape in inputs.items()],
        [make_tensor_value_info(output, FLOAT, None)],
        [onnx.numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)])
    model.ir_version = 9
    return onnx.shape_inference.infer_shapes(model, strict_mode=True)


def replaced(model: Any) -> Replaced:
    """Replace, and require the same outputs."""
    feeds = {
        value.name: random(*(d.dim_value for d in value.type.tensor_type.shape.dim))
        for value in model.graph.input
    }
    wanted: Any = ReferenceEvaluator(model).run(None, feeds)
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    counts = use_contrib_operators(changed)
    assert list(changed.graph.input) == list(model.graph.input)
    made = {t.name for t in changed.graph.initializer} | {v.name for v in changed.graph.input}
    for node in changed.graph.node:
        assert set(filter(None, node.input)) <= made, "a tensor is read that nothing makes"
        made |= set(node.output)
    found = evaluate(changed, feeds)
    assert found.shape == wanted[0].shape
    assert np.abs(found - wanted[0]).max() <= TOLERANCE * np.abs(wanted[0]).max()
    return counts


def attention() -> tuple[Nodes, Constants, dict[str, Shape]]:
    """A fused projection and the attention on it, in the form that is known."""
    constants = {
        "weight": random(CHANNELS, 3 * CHANNELS),
        "bias": random(3 * CHANNELS),
        "shape": np.array([0, TOKENS, 3, HEADS, WIDTH], np.int64),
        "zero": np.array([0], np.int64),
        "one": np.array([1], np.int64),
        "two": np.array([2], np.int64),
        "three": np.array([3], np.int64),
        "flat": np.array([0, TOKENS, CHANNELS], np.int64),
    }
    nodes = [
        make_node("MatMul", ["x", "weight"], ["product"], name="qkv"),
        make_node("Add", ["product", "bias"], ["projected"]),
        make_node("Reshape", ["projected", "shape"], ["parts"]),
        make_node("Transpose", ["parts"], ["heads_first"], perm=[2, 0, 3, 1, 4]),
    ]
    for name, begin, end in (("q", "zero", "one"), ("k", "one", "two"), ("v", "two", "three")):
        nodes.append(make_node("Slice", ["heads_first", begin, end, "zero"], [f"{name}_cut"]))
        nodes.append(make_node("Squeeze", [f"{name}_cut", "zero"], [name]))
    nodes += [
        make_node("Transpose", ["k"], ["columns"], perm=[0, 1, 3, 2]),
        make_node("MatMul", ["q", "columns"], ["scores"]),
        make_node("Softmax", ["scores"], ["weights"], name="softmax", axis=-1),
        make_node("MatMul", ["weights", "v"], ["mixed"]),
        make_node("Transpose", ["mixed"], ["tokens_first"], perm=[0, 2, 1, 3]),
        make_node("Reshape", ["tokens_first", "flat"], ["y"]),
    ]
    return nodes, constants, {"x": (2, TOKENS, CHANNELS)}


def node_making(nodes: Nodes, output: str) -> Any:
    return next(node for node in nodes if node.output[0] == output)


def softmax_over_queries(nodes: Nodes, constants: Constants, inputs: dict[str, Shape]) -> None:
    node_making(nodes, "weights").attribute[0].i = 2


def rows_of_one_matrix(nodes: Nodes, constants: Constants, inputs: dict[str, Shape]) -> None:
    constants["flat"] = np.array([2 * TOKENS, CHANNELS], np.int64)


def tokens_in_one_row(nodes: Nodes, constants: Constants, inputs: dict[str, Shape]) -> None:
    inputs["x"] = (2 * TOKENS, CHANNELS)
    constants["shape"] = np.array([2, TOKENS, 3, HEADS, WIDTH], np.int64)


def heads_to_be_counted(nodes: Nodes, constants: Constants, inputs: dict[str, Shape]) -> None:
    constants["shape"] = np.array([2, TOKENS, 3, HEADS, -1], np.int64)


def mask_as_an_input(nodes: Nodes, constants: Constants, inputs: dict[str, Shape]) -> None:
    inputs["mask"] = (2, 1, 1, TOKENS)
    nodes.insert(-4, make_node("Add", ["scores", "mask"], ["masked"]))
    node_making(nodes, "weights").input[0] = "masked"


def slices_without_axes(nodes: Nodes, constants: Constants, inputs: dict[str, Shape]) -> None:
    for node in nodes:
        if node.op_type == "Slice":
            del node.input[3]


def one_bias_for_all(nodes: Nodes, constants: Constants, inputs: dict[str, Shape]) -> None:
    constants["bias"] = random(1)


def weights_that_are_inputs(nodes: Nodes, constants: Constants, inputs: dict[str, Shape]) -> None:
    inputs["weight"] = constants["weight"].shape


def test_the_known_form_is_replaced() -> None:
    assert replaced(model_of(*attention(), "y")).attentions == 1


@pytest.mark.parametrize(
    "change",
    [
        softmax_over_queries,
        rows_of_one_matrix,
        tokens_in_one_row,
        heads_to_be_counted,
        mask_as_an_input,
        slices_without_axes,
        one_bias_for_all,
        weights_that_are_inputs,
    ],
)
def test_another_attention_means_the_same_afterwards(
    change: Callable[[Nodes, Constants, dict[str, Shape]], None],
) -> None:
    nodes, constants, inputs = attention()
    change(nodes, constants, inputs)
    replaced(model_of(nodes, constants, inputs, "y"))


@pytest.mark.parametrize("written", [True, False])
def test_a_norm_keeps_its_epsilon(written: bool) -> None:
    """ONNX's default is 1e-5, that of SkipLayerNormalization 1e-12."""
    attributes: dict[str, Any] = {"axis": -1, **({"epsilon": 0.5} if written else {})}
    nodes = [
        make_node("Mul", ["x", "small"], ["tiny"]),
        make_node("Add", ["tiny", "tiny"], ["total"]),
        make_node("LayerNormalization", ["total", "scale", "shift"], ["y"], **attributes),
    ]
    constants = {"small": np.float32(1e-3), "scale": random(8), "shift": random(8)}
    assert replaced(model_of(nodes, constants, {"x": (2, 5, 8)}, "y")).skip_norms == 1


def embedding(**constants: Any) -> tuple[Nodes, Constants, dict[str, Shape]]:
    nodes = [
        make_node("Conv", ["x", "weight", "bias"], ["cells"], strides=[4, 4]),
        make_node("Reshape", ["cells", "flat"], ["columns"]),
        make_node("Transpose", ["columns"], ["tokens"], perm=[0, 2, 1]),
        make_node("Concat", ["class", "tokens"], ["all"], axis=1),
        make_node("Add", ["all", "positions"], ["y"]),
    ]
    known = {
        "weight": random(6, 3, 4, 4),
        "bias": random(6),
        "flat": np.array([0, 6, -1], np.int64),
        "class": random(1, 1, 6),
        "positions": random(1, 5, 6),
    }
    return nodes, {**known, **constants}, {"x": (1, 3, 8, 8)}


def test_a_known_embedding_is_replaced() -> None:
    assert replaced(model_of(*embedding(), "y")).patch_products == 1


def test_one_position_for_all_tokens_keeps_the_bias_off_the_class_token() -> None:
    replaced(model_of(*embedding(positions=random(1, 1, 6)), "y"))


def test_a_bias_that_is_computed_stays() -> None:
    nodes, constants, inputs = embedding(given=random(6))
    del constants["bias"]
    nodes.insert(0, make_node("Identity", ["given"], ["bias"]))
    replaced(model_of(nodes, constants, inputs, "y"))


def test_a_padding_by_name_stays() -> None:
    nodes, constants, inputs = embedding()
    nodes[0].attribute.append(onnx.helper.make_attribute("auto_pad", "SAME_UPPER"))
    replaced(model_of(nodes, constants, inputs, "y"))


@pytest.mark.parametrize(
    ("smallest", "limits", "count"), [(1e-30, 1, 1), (4.0, 1, 0), (1e-30, 2, 0)]
)
def test_a_length_with_another_limit_stays(smallest: float, limits: int, count: int) -> None:
    nodes = [
        make_node("Mul", ["x", "x"], ["square"]),
        make_node("ReduceSum", ["square", "axis"], ["sum"], keepdims=1),
        make_node("Clip", ["sum", "smallest", "largest"][: 1 + limits], ["limited"]),
        make_node("Sqrt", ["limited"], ["length"]),
        make_node("Div", ["x", "length"], ["y"]),
    ]
    constants = {
        "axis": np.array([-1], np.int64),
        "smallest": np.float32(smallest),
        "largest": np.float32(2.0),
    }
    assert replaced(model_of(nodes, constants, {"x": (2, 5, 8)}, "y")).unit_lengths == count


def test_what_a_branch_reads_stays() -> None:
    """A tensor that only a branch of an If reads, and one that the graph reads, too."""
    scalar = make_tensor_value_info("out", FLOAT, None)
    branches = {
        f"{branch}_branch": onnx.helper.make_graph(
            [make_node("Add", ["h", name], ["out"])], branch, [], [scalar]
        )
        for branch, name in (("then", "one"), ("else", "two"))
    }
    nodes = [
        make_node("Add", ["x", "bias"], ["h"]),
        make_node("Gelu", ["h"], ["g"]),
        make_node("ReduceSum", ["g"], ["total"], keepdims=0),
        make_node("Greater", ["total", "nothing"], ["yes"]),
        make_node("If", ["yes"], ["branch"], **branches),
        make_node("Add", ["branch", "g"], ["y"]),
    ]
    constants = {
        "bias": random(8),
        "one": random(8),
        "two": random(8) * 2,
        "nothing": np.float32(0),
    }
    replaced(model_of(nodes, constants, {"x": (2, 5, 8)}, "y"))


def test_a_bias_of_one_number_stays() -> None:
    nodes = [make_node("Add", ["x", "bias"], ["h"]), make_node("Gelu", ["h"], ["y"])]
    counts = replaced(model_of(nodes, {"bias": random(1)}, {"x": (2, 5, 8)}, "y"))
    assert counts.bias_gelus == 0
