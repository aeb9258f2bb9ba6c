"""The typed graph: one type for every tensor, float32 for the match and for nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from calibration.casts import PIXEL_SCALE, cast_graph, float32_island
from calibration.emulate import emulate_bfloat16
from engines.errors import ExportError, UsageError
from engines.onnx_graph.files import Graph, read_graph, write_graph
from engines.precisions import HalfName
from tests.calibration.exports import (
    MERGE_BLOCK,
    SIDE,
    Exports,
    feed_of,
    images_of,
    run,
)

HALVES = {"fp16": np.dtype(np.float16), "bf16": np.dtype(ml_dtypes.bfloat16)}
MERGE = f"blocks/{MERGE_BLOCK}/merge"
PRECISIONS = pytest.mark.parametrize("precision", ["fp16", "bf16"])
VARIANTS: list[dict[str, Any]] = [
    {},
    {"target": "cpu"},
    {"opset": 17},
    {"method": "adaptformer"},
    {"batch": (1, 4)},
    {"merge_block": None},
]


def typed(path: Path, precision: HalfName = "fp16", io: Any = "fp32") -> Graph:
    graph = read_graph(path)
    cast_graph(graph, precision, io=io)
    return graph


def inferred(graph: Graph, path: Path) -> onnx.ModelProto:
    """Check a graph as strictly as ONNX can, and return it with the types that ONNX infers.

    ONNX lists bfloat16 for Conv since opset 22 only; TensorRT takes it in older ones.
    """
    write_graph(graph, path)
    bare = onnx.load(str(path))
    del bare.graph.value_info[:]
    if any(tensor.data_type == onnx.TensorProto.BFLOAT16 for tensor in bare.graph.initializer):
        bare.opset_import[0].version = 22
    onnx.checker.check_model(bare, full_check=True)
    return onnx.shape_inference.infer_shapes(bare, check_type=True, strict_mode=True)


def types_of(model: onnx.ModelProto) -> dict[str, int]:
    graph = model.graph
    values = [*graph.value_info, *graph.input, *graph.output]
    found = {value.name: value.type.tensor_type.elem_type for value in values}
    return found | {tensor.name: tensor.data_type for tensor in graph.initializer}


# Types


@PRECISIONS
@pytest.mark.parametrize("io", ["fp32", "typed", "uint8"])
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_the_types_are_what_onnx_infers(
    variant: dict[str, Any], io: str, precision: HalfName, exports: Exports, tmp_path: Path
) -> None:
    graph = typed(exports(**variant), precision, io)
    stated = {
        name: onnx.helper.np_dtype_to_tensor_dtype(tensor.dtype)
        for name, tensor in graph.tensors().items()
    }

    found = types_of(inferred(graph, tmp_path / "typed.onnx"))

    assert found == {name: stated[name] for name in found}
    assert {node.outputs[0].name for node in graph.nodes} <= set(found)


@PRECISIONS
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_no_node_reads_two_float_types(
    variant: dict[str, Any], precision: HalfName, exports: Exports
) -> None:
    floats = {np.dtype(np.float32), *HALVES.values()}
    graph = typed(exports(**variant), precision)

    for node in graph.nodes:
        assert len({tensor.dtype for tensor in node.inputs} & floats) <= 1, node.name


def test_the_island_is_exactly_the_match(merged: Path) -> None:
    """From the averaged keys to the match, the sizes and their logarithm; the merge is outside."""
    graph = read_graph(merged)
    island = float32_island(graph)
    names = {node.name for node in graph.nodes if id(node) in island}

    inside = (
        "key/MatMul", "key/Add", "MatMul", "Relu", "MatMul_2", "Add", "Slice", "Mul", "ReduceSum",
        "Clip", "Sqrt", "Div", "Transpose", "MatMul_3", "ArgMax", "Slice_2", "Add_2", "Concat",
        "Unsqueeze", "Equal", "Cast", "ReduceSum_2", "Unsqueeze_2",
    )  # fmt: skip
    assert names == {f"{MERGE}/{name}" for name in inside} | {"graph/Log", "graph/Unsqueeze"}


def test_without_a_merge_there_is_no_island(exports: Exports) -> None:
    path = exports(merge_block=None)

    assert float32_island(read_graph(path)) == set()
    graph = typed(path, io="typed")
    assert np.dtype(np.float32) not in {t.dtype for t in graph.tensors().values()}


@PRECISIONS
def test_casts_stand_only_at_the_borders(precision: HalfName, merged: Path) -> None:
    graph = typed(merged, precision)
    casts = {
        node.name: (node.inputs[0].dtype.name, node.outputs[0].dtype.name)
        for node in graph.nodes
        if node.op == "Cast"
    }
    half = HALVES[precision].name

    assert casts == {
        "patches/Cast": ("float32", half),  # the pixels
        f"{MERGE}/key/Cast": (half, "float32"),  # into the match
        f"{MERGE}/Cast": ("bool", "float32"),  # the one-hot match, as exported
        f"{MERGE}/Cast_2": ("float32", half),  # the match, to the merge
        f"{MERGE}/Cast_3": ("float32", half),  # the sizes, to the merge
        "graph/Cast": ("float32", half),  # the logarithm of the sizes
        "head/Cast": (half, "float32"),  # the logits
    }


# Input and output


@PRECISIONS
@pytest.mark.parametrize(
    ("io", "pixels", "logits"),
    [("fp32", "float32", "float32"), ("typed", None, None), ("uint8", "uint8", "float32")],
)
def test_io_decides_the_types_of_pixels_and_logits(
    io: str, pixels: str | None, logits: str | None, precision: HalfName, merged: Path
) -> None:
    graph = typed(merged, precision, io)
    (taken,), (given,) = graph.inputs, graph.outputs

    assert (taken.name, given.name) == ("images", "logits")
    assert taken.dtype.name == (pixels or HALVES[precision].name)
    assert given.dtype.name == (logits or HALVES[precision].name)
    assert taken.shape == read_graph(merged).inputs[0].shape


@pytest.mark.parametrize("input", ["uint8-nhwc", "uint8-nchw"])
def test_a_graph_of_raw_pixels_goes_on_taking_them(
    input: str, exports: Exports, tmp_path: Path
) -> None:
    path = exports(input=input)
    images = images_of(4)
    (expected,) = run(path, feed_of(path, images))

    for io in ("fp32", "uint8"):
        graph = typed(path, "fp16", io)
        assert graph.inputs[0].dtype == np.uint8
        write_graph(graph, tmp_path / "typed.onnx")
        (found,) = run(tmp_path / "typed.onnx", feed_of(path, images))
        assert np.abs(found - expected).max() < 2e-2 * np.abs(expected).max()
    with pytest.raises(UsageError, match="raw pixels") as caught:
        typed(path, "fp16", "typed")
    assert "--io uint8" in caught.value.fix


def test_raw_pixels_say_what_the_float_pixels_say(merged: Path, tmp_path: Path) -> None:
    images = images_of(4)
    raw = np.ascontiguousarray(images.pixels.transpose(0, 3, 1, 2))
    write_graph(typed(merged, "fp16", "uint8"), tmp_path / "raw.onnx")
    write_graph(typed(merged, "fp16", "fp32"), tmp_path / "float.onnx")
    (expected,) = run(merged, feed_of(merged, images))

    (from_raw,) = run(tmp_path / "raw.onnx", raw)
    (from_float,) = run(tmp_path / "float.onnx", feed_of(merged, images))

    peak = np.abs(expected).max()
    assert np.abs(from_raw - expected).max() < 2e-2 * peak
    # Raw pixels are exact in float16, float ones are rounded: it is no worse.
    assert np.abs(from_raw - expected).mean() < 1.5 * np.abs(from_float - expected).mean()


@pytest.mark.parametrize("input", ["float32", "uint8-nhwc"])
def test_raw_pixels_keep_the_digits_of_the_embedding(input: str, exports: Exports) -> None:
    """A weight that held the whole 1/255 would be a denormal float16."""
    path = exports(input=input)
    before = next(node for node in read_graph(path).nodes if node.op == "Conv").inputs[1].values
    graph = typed(path, "fp16", "uint8")
    (embedding,) = (node for node in graph.nodes if node.op == "Conv")
    whole = before.astype(np.float64) * (1 / 255 if input == "float32" else 1.0)

    found = embedding.inputs[1].values.astype(np.float64) * PIXEL_SCALE

    large = np.abs(whole) > 1e-2 * np.abs(whole).max()
    error = np.abs(found / whole - 1)[large].max()
    plain = np.abs(whole.astype(np.float16) / whole - 1)[large].max()
    assert error < 2.0**-11 * 1.01
    assert plain > 2 * error  # negative control
    assert 0.5 < 255 * PIXEL_SCALE < 1  # pixels and weights are as large as those of float pixels


# Numbers


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize(("precision", "limit"), [("fp16", 1e-2), ("bf16", 8e-2)])
def test_the_logits_are_those_of_float32(
    variant: dict[str, Any], precision: HalfName, limit: float, exports: Exports, tmp_path: Path
) -> None:
    path = exports(**variant)
    feed = feed_of(path, images_of(8))
    (expected,) = run(path, feed)
    graph = typed(path, precision)
    emulate_bfloat16(graph)
    write_graph(graph, tmp_path / "typed.onnx")

    (found,) = run(tmp_path / "typed.onnx", feed)

    difference = np.abs(found - expected).max() / np.abs(expected).max()
    assert 0 < difference < limit


def test_the_match_is_the_float32_argmax_of_the_rounded_keys(merged: Path, tmp_path: Path) -> None:
    """Whatever half precision did before: on its keys, nobody decides otherwise."""
    graph = typed(merged)
    search = next(node for node in graph.nodes if node.op == "ArgMax")
    keys = next(node for node in graph.nodes if node.name == f"{MERGE}/Add").outputs[0]
    write_graph(graph, tmp_path / "typed.onnx")
    feed = feed_of(merged, images_of(16))

    metric, chosen, match = run(
        tmp_path / "typed.onnx", feed, (keys.name, search.outputs[0].name, "match")
    )

    assert metric.dtype == np.float32
    assert not np.array_equal(metric, metric.astype(np.float16).astype(np.float32))
    wide = metric.astype(np.float64)
    wide /= np.linalg.norm(wide, axis=-1, keepdims=True)
    cosines = wide[:, 9:] @ wide[:, 1:9].transpose(0, 2, 1)
    best = np.sort(cosines, axis=-1)
    sure = best[..., -1] - best[..., -2] > 1e-6
    assert sure.mean() > 0.9
    assert (cosines.argmax(axis=-1) == match)[sure].all()
    assert np.array_equal(chosen[:, -8:], match)


def test_the_sizes_are_exact_in_bfloat16(merged: Path, tmp_path: Path) -> None:
    graph = typed(merged, "bf16")
    emulate_bfloat16(graph)
    write_graph(graph, tmp_path / "typed.onnx")

    (size,) = run(tmp_path / "typed.onnx", feed_of(merged, images_of(8)), ("size",))

    assert size.dtype == np.float32
    assert (size.sum(axis=1) == 17).all()


# Constants


def test_a_constant_of_both_sides_is_copied(merged: Path, tmp_path: Path) -> None:
    graph = read_graph(merged)
    clip = next(node for node in graph.nodes if node.name == f"{MERGE}/Clip")
    shared = clip.inputs[1]
    outside = next(node for node in graph.nodes if node.name == "blocks/0/attn/Mul")
    before = outside.inputs[1].values.copy()
    shared.values = before.copy()
    outside.inputs[1] = shared

    cast_graph(graph, "fp16", io="fp32")

    assert clip.inputs[1].dtype == np.float32
    assert outside.inputs[1].dtype == np.float16
    assert clip.inputs[1].name != outside.inputs[1].name
    assert np.array_equal(outside.inputs[1].values, before.astype(np.float16))
    inferred(graph, tmp_path / "typed.onnx")


def test_a_weight_that_float16_cannot_hold_is_refused(merged: Path) -> None:
    graph = read_graph(merged)
    weight = next(node for node in graph.nodes if node.name == "blocks/1/fc1/MatMul").inputs[1]
    weight.values = weight.values.copy()
    weight.values[3, 5] = 70000.0

    with pytest.raises(ExportError, match="7e\\+04, which float16 cannot") as caught:
        cast_graph(graph, "fp16", io="fp32")

    assert caught.value.where == weight.name
    assert "--precision bf16" in caught.value.fix


def test_bfloat16_holds_it(merged: Path, tmp_path: Path) -> None:
    graph = read_graph(merged)
    weight = next(node for node in graph.nodes if node.name == "blocks/1/fc1/MatMul").inputs[1]
    weight.values = weight.values.copy()
    weight.values[3, 5] = 70000.0

    cast_graph(graph, "bf16", io="fp32")

    assert weight.values.dtype == ml_dtypes.bfloat16
    assert float(weight.values[3, 5]) == pytest.approx(70000, rel=2.0**-8)
    inferred(graph, tmp_path / "typed.onnx")


def test_a_factor_that_would_become_zero_is_refused(merged: Path) -> None:
    graph = read_graph(merged)
    factor = next(node for node in graph.nodes if node.name == "blocks/0/attn/Mul").inputs[1]
    factor.values = np.asarray(1e-9, np.float32)

    with pytest.raises(ExportError, match="1e-09"):
        cast_graph(graph, "fp16", io="fp32")


def test_constants_of_the_island_keep_every_digit(merged: Path) -> None:
    before = {
        tensor.name: tensor.values
        for node in read_graph(merged).nodes
        if node.name.startswith(MERGE)
        for tensor in node.inputs
        if isinstance(tensor, gs.Constant) and tensor.dtype == np.float32
    }
    after = typed(merged).tensors()

    assert len(before) >= 4
    for name, values in before.items():
        assert np.array_equal(after[name].values, values)
        assert after[name].dtype == np.float32


def test_every_other_weight_is_half(merged: Path) -> None:
    graph = typed(merged)
    kinds = {
        tensor.name: tensor.dtype.name
        for tensor in graph.tensors().values()
        if isinstance(tensor, gs.Constant) and tensor.dtype != np.int64
    }

    wide = {name for name, kind in kinds.items() if kind == "float32"}
    assert {name for name in wide if "." in name} == {
        f"blocks.{MERGE_BLOCK}.merge.{part}"
        for part in ("key.weight", "key.bias", "weight", "weight_2")
    }
    assert set(kinds.values()) == {"float16", "float32"}


def test_the_typed_graph_is_half_the_size(merged: Path, tmp_path: Path) -> None:
    write_graph(typed(merged), tmp_path / "typed.onnx")

    assert (tmp_path / "typed.onnx").stat().st_size < 0.6 * merged.stat().st_size


def test_side_and_type_of_the_pixels_are_those_of_the_graph(exports: Exports) -> None:
    graph = typed(exports(batch=(1, 4)))

    assert graph.inputs[0].shape[0] == "batch"
    assert graph.inputs[0].shape[1:] == [3, SIDE, SIDE]
