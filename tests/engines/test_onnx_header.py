from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from engines.errors import InputError
from engines.manifest import TensorSpec
from engines.onnx_header import parse_onnx_header, read_onnx_header

TinyVit = Callable[..., Path]
OneNode = Callable[..., onnx.ModelProto]


def model_with_branches() -> onnx.ModelProto:
    """A graph with an If, whose branches hold a constant and a call of another domain."""

    def branch(name: str, *nodes: onnx.NodeProto) -> onnx.GraphProto:
        out = helper.make_tensor_value_info(name, TensorProto.FLOAT, [1])
        return helper.make_graph(nodes, name, [], [out])

    value = numpy_helper.from_array(np.zeros(1, np.float32))
    choice = helper.make_node(
        "If",
        ["flag"],
        ["y"],
        then_branch=branch("a", helper.make_node("Constant", [], ["a"], value=value)),
        else_branch=branch("b", helper.make_node("Odd", [], ["b"], domain="com.example")),
    )
    graph = helper.make_graph(
        [choice],
        "choice",
        [helper.make_tensor_value_info("flag", TensorProto.BOOL, [])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
    )
    return helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("com.example", 3)],
    )


def test_the_header_says_what_onnx_says(tiny_vit: TinyVit) -> None:
    path = tiny_vit(batch="batch", dtype="float16")
    model = onnx.load(path)

    header = read_onnx_header(path)

    operators = [node.op_type for node in model.graph.node]
    assert header.opset == 20
    assert header.operators == {name: operators.count(name) for name in set(operators)}
    assert header.inputs == (TensorSpec(name="image", shape=("batch", 3, 32, 32), dtype="float16"),)
    assert header.outputs == (TensorSpec(name="logits", shape=("batch", 10), dtype="float16"),)
    assert header.external_files == ()


def test_subgraphs_and_domains_are_read() -> None:
    header = parse_onnx_header(model_with_branches().SerializeToString(), where="memory")

    assert header.operators == {"If": 1, "Constant": 1, "com.example.Odd": 1}
    assert header.domains == {"com.example": 3}


def test_an_input_with_an_initializer_is_no_input(one_node_model: OneNode) -> None:
    model = one_node_model("Relu")
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((1, 4), np.float32), "x"))

    assert parse_onnx_header(model.SerializeToString(), where="memory").inputs == ()


def test_an_unnamed_extent_gets_a_name(one_node_model: OneNode) -> None:
    model = one_node_model("Relu")
    model.graph.input[0].type.tensor_type.shape.dim[0].ClearField("dim_value")

    (spec,) = parse_onnx_header(model.SerializeToString(), where="memory").inputs

    assert spec.shape == ("unnamed_0", 4)


@given(share=st.floats(0, 0.9999))
def test_a_truncated_graph_is_refused(vit_bytes: bytes, share: float) -> None:
    content = vit_bytes

    with pytest.raises(InputError, match="not a whole ONNX model") as caught:
        parse_onnx_header(content[: int(share * len(content))], where="cut.onnx")

    assert caught.value.exit_code == 3


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    try:
        parse_onnx_header(content, where="noise")
    except InputError as error:
        assert error.where == "noise"


@given(st.data())
def test_flipped_bytes_are_read_or_refused(one_node_model: OneNode, data: st.DataObject) -> None:
    content = bytearray(one_node_model("Relu").SerializeToString())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))

    try:
        parse_onnx_header(bytes(content), where="flipped")
    except InputError as error:
        assert "not a whole ONNX model" in str(error)


def test_endless_nesting_is_refused() -> None:
    # A graph (7) with a node (1) with an attribute (5) with a graph (6), around itself.
    def wrap(field: int, content: bytes) -> bytes:
        size, length = b"", len(content)
        while length > 0x7F:
            size, length = size + bytes([length & 0x7F | 0x80]), length >> 7
        return bytes([field << 3 | 2]) + size + bytes([length]) + content

    content = b""
    for _ in range(100):
        content = wrap(1, wrap(5, wrap(6, content)))

    with pytest.raises(InputError, match="nested more than"):
        parse_onnx_header(wrap(7, content), where="deep")


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.onnx").write_bytes(b"")

    with pytest.raises(InputError, match="holds no graph"):
        read_onnx_header(tmp_path / "empty.onnx")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read_onnx_header(tmp_path / "none.onnx")


def test_a_git_lfs_pointer_is_called_by_its_name(tmp_path: Path) -> None:
    pointer = tmp_path / "model.onnx"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n")

    with pytest.raises(InputError, match="Git-LFS pointer") as caught:
        read_onnx_header(pointer)

    assert "git lfs pull" in caught.value.fix


def external_model(path: Path, location: str) -> Path:
    """Write a model whose only weight lies in the file `location`."""
    weight = numpy_helper.from_array(np.ones((4, 4), np.float32), "weight")
    onnx.external_data_helper.set_external_data(weight, location, 0, 64)
    raw = weight.raw_data
    weight.ClearField("raw_data")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "weight"], ["y"], name="product")],
        "external",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    path.write_bytes(model.SerializeToString())
    (path.parent / "raw").write_bytes(raw)
    return path


def test_external_weights_beside_the_graph_are_listed(tmp_path: Path) -> None:
    path = external_model(tmp_path / "model.onnx", "raw")

    assert read_onnx_header(path).external_files == ("raw",)


def test_missing_external_weights_are_named(tmp_path: Path) -> None:
    path = external_model(tmp_path / "model.onnx", "gone.bin")

    with pytest.raises(InputError, match=r"external weights are missing: 'gone\.bin'"):
        read_onnx_header(path)


@pytest.mark.parametrize("location", ["../raw", "/etc/passwd", "inner/../../raw"])
def test_external_weights_outside_the_folder_are_refused(tmp_path: Path, location: str) -> None:
    (tmp_path / "raw").write_bytes(bytes(64))
    (tmp_path / "inner").mkdir()
    path = external_model(tmp_path / "inner" / "model.onnx", location)

    with pytest.raises(InputError, match="outside its folder"):
        read_onnx_header(path)


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "raw").write_bytes(bytes(64))
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "link").symlink_to(tmp_path / "raw")
    path = external_model(tmp_path / "inner" / "model.onnx", "link")

    with pytest.raises(InputError, match="outside its folder"):
        read_onnx_header(path)


def with_weights(model: onnx.ModelProto, *tensors: onnx.TensorProto) -> bytes:
    model.graph.initializer.extend(tensors)
    content: bytes = model.SerializeToString()
    return content


@given(
    values=st.lists(st.integers(-128, 127), max_size=40),
    scalar=st.integers(-128, 127),
)
def test_int8_weights_are_measured_and_zero_points_are_not(
    one_node_model: OneNode, values: list[int], scalar: int
) -> None:
    matrix = numpy_helper.from_array(np.array(values, np.int8).reshape(-1, 1), "w")
    zero = numpy_helper.from_array(np.array(scalar, np.int8), "z")

    header = parse_onnx_header(with_weights(one_node_model("Relu"), matrix, zero), where="memory")

    assert header.largest_int8 == max(map(abs, values), default=0)
    assert header.weights == {"int8": len(values) + 1}


def test_int8_weights_that_cannot_be_read_count_as_the_full_range(
    one_node_model: OneNode,
) -> None:
    listed = helper.make_tensor("w", TensorProto.INT8, [2, 2], [1, 2, 3, 4])
    assert not listed.raw_data

    header = parse_onnx_header(with_weights(one_node_model("Relu"), listed), where="memory")

    assert header.largest_int8 == 128


@pytest.mark.parametrize(
    ("operator", "kind", "is_quantized", "is_fp8"),
    [
        ("QuantizeLinear", TensorProto.INT8, True, False),
        ("QuantizeLinear", TensorProto.FLOAT8E4M3FN, True, True),
        ("QuantizeLinear", TensorProto.FLOAT8E5M2, True, True),
        ("DynamicQuantizeLinear", TensorProto.INT8, True, False),
        ("Relu", TensorProto.FLOAT8E4M3FN, False, False),
        ("DequantizeLinear", TensorProto.INT8, False, False),
    ],
)
def test_quantized_graphs_are_told_by_what_they_round_to(
    one_node_model: OneNode, operator: str, kind: int, is_quantized: bool, is_fp8: bool
) -> None:
    zero = helper.make_tensor("z", kind, [], b"\0", raw=True)

    header = parse_onnx_header(with_weights(one_node_model(operator), zero), where="memory")

    assert (header.is_quantized, header.is_fp8) == (is_quantized, is_fp8)
