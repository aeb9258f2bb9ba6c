"""Q/DQ pairs: where they stand, what they hold, what they compute, and what TensorRT-RTX fuses."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest

import engines
from calibration import qdq
from calibration.collect import calibrate
from calibration.grids import GRIDS, INT8, Grid
from calibration.policy import choose
from calibration.recipe import Recipe, amax_of, typed_graph
from calibration.roles import attentions, linears
from calibration.table import CalibrationTable
from engines.contract import BuildOptions
from engines.fusion.report import FusionReport, fusion_path, read_fusion
from engines.onnx_graph.files import Graph, read_graph, write_graph
from tests.calibration.exports import DEPTH, Exports, feed_of, images_of, run, source_of

PRESETS = ["vit-linear", "vit-attention"]
PRECISIONS = pytest.mark.parametrize("precision", ["int8", "fp8"])


def made(path: Path, table: CalibrationTable, precision: str, preset: str, **recipe: Any) -> Graph:
    settings: dict[str, Any] = {"precision": precision} | recipe
    policy = choose(read_graph(path), preset)
    return typed_graph(path, Recipe(**settings), policy=policy, table=table)


def pairs_at(graph: Graph) -> dict[tuple[str, int], Any]:
    """The DequantizeLinear behind every node input that has one, by node name and place."""
    return {
        (node.name, place): tensor.inputs[0]
        for node in graph.nodes
        for place, tensor in enumerate(node.inputs)
        if tensor.inputs and tensor.inputs[0].op == "DequantizeLinear"
    }


# Placement


@PRECISIONS
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("variant", [{}, {"method": "adaptformer"}, {"target": "cpu"}], ids=str)
def test_pairs_stand_at_the_products_of_the_preset_and_nowhere_else(
    variant: dict[str, Any], preset: str, precision: str, exports: Exports
) -> None:
    """Not at residual additions, norms, match, merge, adapters, patch convolution or head."""
    graph = read_graph(exports(**variant))
    policy = choose(graph, preset)
    wanted = {(linear.product.name, place) for linear in linears(graph) for place in (0, 1)}
    if preset == "vit-attention":
        for each in attentions(graph):
            wanted |= {(node.name, place) for node in (each.scores, each.mix) for place in (0, 1)}

    qdq.insert(graph, policy, Everything(), GRIDS[precision])

    assert set(pairs_at(graph)) == wanted
    quantizers = [node for node in graph.nodes if node.op == "QuantizeLinear"]
    assert len(quantizers) == len([n for n in graph.nodes if n.op == "DequantizeLinear"])
    assert all(len(q.outputs[0].outputs) == 1 for q in quantizers)


class Everything(dict[str, float]):
    """One amax for whatever is asked."""

    def __missing__(self, key: str) -> float:
        return 3.0


def test_what_is_kept_gets_no_pair(merged: Path) -> None:
    graph = read_graph(merged)
    keep = ["blocks/0", "blocks/1/fc2", "blocks/2/attn/qkv"]
    policy = choose(graph, "vit-attention", keep=keep)

    qdq.insert(graph, policy, Everything(), INT8)

    touched = {name for name, _ in pairs_at(graph)}
    assert not any(
        name.startswith(("blocks/0/", "blocks/1/fc2", "blocks/2/attn/qkv")) for name in touched
    )
    assert {"blocks/1/fc1/MatMul", "blocks/1/attn/MatMul", "blocks/2/attn/MatMul_2"} <= touched


def test_a_tensor_that_two_products_read_gets_one_pair(merged: Path) -> None:
    graph = read_graph(merged)
    products = {linear.name: linear.product for linear in linears(graph)}
    shared = products["blocks/0/attn/qkv"].inputs[0]
    products["blocks/0/fc1"].inputs[0] = shared
    policy = choose(graph, "vit-linear")

    qdq.insert(graph, policy, Everything(), INT8)

    assert len([node for node in shared.outputs if node.op == "QuantizeLinear"]) == 1
    first, second = (products[f"blocks/0/{part}"].inputs[0] for part in ("attn/qkv", "fc1"))
    assert first is second


def test_the_key_of_the_match_reads_the_norm_unrounded(merged: Path) -> None:
    graph = read_graph(merged)
    qdq.insert(graph, choose(graph, "vit-attention"), Everything(), INT8)

    key = next(node for node in graph.nodes if node.name == "blocks/1/merge/key/MatMul")
    assert key.inputs[0].inputs[0].op == "LayerNormalization"


def test_nothing_stands_between_a_product_and_its_bias(merged: Path) -> None:
    graph = read_graph(merged)
    qdq.insert(graph, choose(graph, "vit-attention"), Everything(), INT8)

    for linear in linears_of(graph):
        (follower,) = linear.outputs[0].outputs
        assert follower.op == "Add"


def linears_of(graph: Graph) -> list[Any]:
    ends = ("qkv/MatMul", "proj/MatMul", "fc1/MatMul", "fc2/MatMul")
    return [node for node in graph.nodes if node.name.endswith(ends)]


def test_a_tensor_without_a_range_is_an_error(merged: Path) -> None:
    graph = read_graph(merged)

    with pytest.raises(KeyError):
        qdq.insert(graph, choose(graph, "vit-linear"), {}, INT8)


# What the pairs hold


@PRECISIONS
@pytest.mark.parametrize("half", ["fp16", "bf16"])
def test_scales_have_the_type_of_the_tensor_and_zero_points_are_zero(
    half: str, precision: str, merged: Path, table: CalibrationTable
) -> None:
    graph = made(merged, table, precision, "vit-attention", float_precision=half)
    dtype = np.dtype({"fp16": np.float16, "bf16": ml_dtypes.bfloat16}[half])
    names = {linear.name for linear in linears(read_graph(merged))}

    for (name, place), dequantizer in pairs_at(graph).items():
        quantizer = dequantizer.inputs[0].inputs[0]
        is_weight = place == 1 and name.rpartition("/")[0] in names
        extent = [quantizer.inputs[0].shape[1]] if is_weight else []
        for node in (quantizer, dequantizer):
            _, scale, zero = node.inputs
            assert list(scale.shape) == list(zero.shape) == extent
            assert scale.dtype == dtype
            assert (zero.values.astype(np.float32) == 0).all()
            assert zero.dtype == GRIDS[precision].dtype
            assert node.attrs == ({"axis": 1} if is_weight else {})
        assert np.array_equal(quantizer.inputs[1].values, dequantizer.inputs[1].values)
        assert quantizer.inputs[0].dtype == dequantizer.outputs[0].dtype == dtype
        assert quantizer.outputs[0].dtype == GRIDS[precision].dtype


@PRECISIONS
def test_scales_come_from_the_table_and_from_the_weights(
    precision: str, merged: Path, table: CalibrationTable
) -> None:
    table = dataclasses.replace(table, moments={})  # the largest weight of a column stays so
    graph = made(merged, table, precision, "vit-attention")
    grid = GRIDS[precision]
    found = pairs_at(graph)

    weight = found["blocks/2/fc1/MatMul", 1].inputs[0].inputs[0]
    columns = np.abs(weight.inputs[0].values.astype(np.float64)).max(axis=0)
    assert np.allclose(
        weight.inputs[1].values.astype(np.float64), columns / grid.largest, rtol=1e-3
    )
    tokens = found["blocks/2/fc1/MatMul", 0].inputs[1].values
    record = table.records["blocks/2/fc1/input"]
    middle = (record.channel_highest - record.channel_lowest).max() / 2 * 127 / 126.5
    largest = middle if precision == "int8" else record.histogram.largest  # see test_shift.py
    assert float(tokens) == pytest.approx(largest / grid.largest, rel=1e-3)


def test_the_probabilities_keep_at_most_what_was_seen(
    merged: Path, table: CalibrationTable
) -> None:
    graph = read_graph(merged)
    policy = choose(graph, "vit-attention")
    amax = amax_of(graph, Recipe(precision="int8"), table, policy)
    for attention in attentions(read_graph(merged)):
        tensor = attention.tensors()["probabilities"].name
        record = table.records[f"{attention.name}/probabilities"]
        assert 0 < amax[tensor] <= record.highest <= 1


@PRECISIONS
@pytest.mark.parametrize("preset", PRESETS)
def test_the_graph_is_valid_to_the_strictest_check(
    preset: str, precision: str, merged: Path, table: CalibrationTable, tmp_path: Path
) -> None:
    write_graph(made(merged, table, precision, preset), tmp_path / "q.onnx")
    model = onnx.load(str(tmp_path / "q.onnx"))
    stated = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    del model.graph.value_info[:]

    onnx.checker.check_model(model, full_check=True)
    found = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    for value in found.graph.value_info:
        assert value.type.tensor_type.elem_type == stated[value.name], value.name


# Numbers


def rounded(values: np.ndarray, pair: Any, grid: Grid) -> np.ndarray:
    """Quantize and dequantize as ONNX states it, in float64 but for the division."""
    scale = pair.inputs[1].values.astype(np.float32)
    steps = values.astype(np.float32) / scale
    if grid is INT8:
        return np.asarray(np.clip(np.rint(steps), -128, 127) * scale.astype(np.float64))
    clipped = np.clip(steps, -448, 448).astype(ml_dtypes.float8_e4m3fn).astype(np.float64)
    return np.asarray(clipped * scale.astype(np.float64))


@PRECISIONS
def test_every_product_multiplies_the_rounded_operands(
    precision: str, merged: Path, table: CalibrationTable, tmp_path: Path
) -> None:
    """The graph is run as it is written; each product is computed again in float64."""
    grid = GRIDS[precision]
    graph = made(merged, table, precision, "vit-attention")
    found = pairs_at(graph)
    products = {node.name: node for node in graph.nodes if (node.name, 0) in found}
    write_graph(graph, tmp_path / "q.onnx")

    wanted = []
    for name, node in products.items():
        sources = [found[name, place].inputs[0].inputs[0].inputs[0] for place in (0, 1)]
        wanted.append((name, sources, node.outputs[0].name))
    watched = sorted(
        {t.name for _, sources, _ in wanted for t in sources if t.inputs}
        | {output for _, _, output in wanted}
    )
    values = dict(
        zip(watched, run(tmp_path / "q.onnx", feed_of(merged, images_of(2)), watched), strict=True)
    )

    assert len(wanted) == 4 * DEPTH + 2 * DEPTH
    for name, sources, output in wanted:
        operands, plain = [], []
        for place, tensor in enumerate(sources):
            value = values[tensor.name] if tensor.inputs else tensor.values
            quantizer = found[name, place].inputs[0].inputs[0]
            operands.append(rounded(value, quantizer, grid))
            plain.append(value.astype(np.float64))
        expected = operands[0] @ operands[1]
        error = np.abs(values[output].astype(np.float64) - expected).max()
        terms = np.abs(operands[0]) @ np.abs(operands[1])
        assert error <= 2.0**-10 * terms.max(), name
        unrounded = np.abs(plain[0] @ plain[1] - expected).max()
        assert unrounded > 2 * error, name  # negative control: the rounding is what is seen


@PRECISIONS
@pytest.mark.parametrize(("preset", "least"), [("vit-linear", 25.0), ("vit-attention", 20.0)])
def test_the_answers_stay_near_and_the_match_in_float32(
    preset: str, least: float, precision: str, merged: Path, table: CalibrationTable, tmp_path: Path
) -> None:
    write_graph(made(merged, table, precision, preset), tmp_path / "q.onnx")
    feed = feed_of(merged, images_of(8, seed=2))

    (found, size), (expected, _) = (
        run(path, feed, ("logits", "size")) for path in (tmp_path / "q.onnx", merged)
    )

    noise = np.square(found - expected).sum()
    assert 10 * np.log10(np.square(expected).sum() / noise) > least
    assert size.dtype == np.float32
    assert (size.sum(axis=1) == 17).all()


# What TensorRT-RTX makes of them: real builds, counts are invariants of every version.


@pytest.fixture(scope="module")
def build(
    exports: Exports, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], FusionReport]:
    """Build a ViT with heads of the usual width, 64, and 65 tokens that become 33."""
    pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx-cu13")
    folder = tmp_path_factory.mktemp("rtx")
    path = exports(width=128, hidden=256, image=(32, 32))
    table = calibrate(path, source_of(folder / "i.npz", images_of(8, side=32), path))

    @functools.cache
    def act(precision: str, preset: str) -> FusionReport:
        graph = folder / f"{precision}.{preset}.onnx"
        write_graph(made(path, table, precision, preset), graph)
        options = BuildOptions(compute_capabilities=("8.9",))
        return read_fusion(fusion_path(engines.build(graph, target="rtx", options=options)))

    return act


@pytest.mark.tensorrt
@PRECISIONS
@pytest.mark.parametrize("preset", PRESETS)
def test_every_linear_becomes_a_quantized_gemm_and_every_attention_one_kernel(
    preset: str, precision: str, build: Callable[[str, str], FusionReport]
) -> None:
    report = build(precision, preset)

    quantized = {"int8": "Int8", "fp8": "FP8"}[precision]
    assert report.quantized_gemms == 4 * DEPTH
    assert report.weight_only == ()
    assert [attention.block for attention in report.attentions] == list(range(DEPTH))
    inside = quantized if preset == "vit-attention" else "Half"
    assert {attention.dtype for attention in report.attentions} == {inside}
    assert [attention.key_bias for attention in report.attentions] == [False, False, True]
    assert report.leaks == ()


@pytest.mark.tensorrt
def test_quantizing_adds_no_kernel(build: Callable[[str, str], FusionReport]) -> None:
    linear, attention = (build("int8", preset) for preset in PRESETS)

    assert len(attention.kernels) <= len(linear.kernels) + DEPTH
