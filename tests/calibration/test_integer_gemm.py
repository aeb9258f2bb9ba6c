"""INT8 linears for CPUs: against exact integers in numpy, and as ONNX Runtime fuses them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration import integer_gemm
from calibration.collect import calibrate
from calibration.integer_gemm import FULL, REDUCED
from calibration.policy import Policy, choose
from calibration.recipe import Recipe, typed_graph
from calibration.roles import linears
from calibration.table import CalibrationTable
from engines.onnx_graph.files import Graph, read_graph, write_graph
from tests.calibration.exports import (
    DEPTH,
    Exports,
    feed_of,
    images_of,
    run,
    source_of,
    sqnr_db,
)

LINEARS = 4 * DEPTH + 1  # the last block has a query of its own


def made(path: Path, table: CalibrationTable, limit: int = FULL, keep: Any = ()) -> Graph:
    recipe = Recipe(precision="int8", form="gemm", largest_weight=limit)
    policy = choose(read_graph(path), "vit-linear", keep=keep)
    return typed_graph(path, recipe, policy=policy, table=table)


def gemms(graph: Graph) -> dict[str, Any]:
    return {
        node.name.rpartition("/")[0]: node
        for node in graph.nodes
        if node.op == "Gemm" and node.name != "head/Gemm"
    }


def constant(node: Any, place: int) -> np.ndarray:
    return np.asarray(node.inputs[place].values)


def in_integers(rows: np.ndarray, gemm: Any) -> np.ndarray:
    """What the product is meant to be: whole numbers, and one multiplication at the end."""
    activation, weight, bias = (tensor.inputs[0] for tensor in gemm.inputs)
    scale, zero = constant(activation, 1), constant(activation, 2).astype(np.int64)
    steps = np.rint(rows.astype(np.float32) / scale).astype(np.int64) + zero
    whole = np.clip(steps, 0, 255) - zero
    total = whole @ constant(weight, 0).astype(np.int64) + constant(bias, 0)
    return np.asarray(total * (scale.astype(np.float64) * constant(weight, 1)))


# The graph


def test_every_linear_is_one_integer_product(on_cpu: Path, cpu_table: CalibrationTable) -> None:
    graph = made(on_cpu, cpu_table)
    found = gemms(graph)

    assert set(found) == {linear.name for linear in linears(read_graph(on_cpu))}
    assert len(found) == LINEARS
    assert linears(graph) == []
    for gemm in found.values():
        kinds = []
        for tensor in gemm.inputs:
            (dequantizer,) = tensor.inputs
            assert dequantizer.op == "DequantizeLinear"
            kinds.append(dequantizer.inputs[0].dtype.name)
        assert kinds == ["uint8", "int8", "int32"]


def test_the_parts_have_their_shapes_and_scales(on_cpu: Path, cpu_table: CalibrationTable) -> None:
    for gemm in gemms(made(on_cpu, cpu_table)).values():
        activation, weight, bias = (tensor.inputs[0] for tensor in gemm.inputs)
        outputs = constant(weight, 0).shape[1]
        assert constant(activation, 1).shape == constant(activation, 2).shape == ()
        assert constant(weight, 1).shape == constant(weight, 2).shape == (outputs,)
        assert constant(bias, 0).shape == constant(bias, 1).shape == (outputs,)
        assert weight.attrs == {"axis": 1}
        assert not constant(weight, 2).any()
        assert not constant(bias, 2).any()
        product = constant(activation, 1).astype(np.float64) * constant(weight, 1)
        assert np.allclose(constant(bias, 1), product, rtol=1e-6)


@pytest.mark.parametrize("limit", [FULL, REDUCED])
def test_weights_stay_in_their_range(limit: int, on_cpu: Path, cpu_table: CalibrationTable) -> None:
    for gemm in gemms(made(on_cpu, cpu_table, limit)).values():
        weight = constant(gemm.inputs[1].inputs[0], 0).astype(np.int64)
        assert np.abs(weight).max() == limit
    assert 2 * 255 * REDUCED < 2**15 < 2 * 255 * FULL


def test_gelu_needs_a_zero_point_near_the_bottom(on_cpu: Path, cpu_table: CalibrationTable) -> None:
    """GELU gives values from -0.17 upward; a signed type would waste half of its numbers."""
    found = gemms(made(on_cpu, cpu_table))

    zeros = {name: int(constant(gemm.inputs[0].inputs[0], 2)) for name, gemm in found.items()}
    assert all(0 < zero < 100 for name, zero in zeros.items() if name.endswith("fc2"))
    assert all(100 < zero < 156 for name, zero in zeros.items() if name.endswith("qkv"))
    for name, gemm in found.items():
        record = cpu_table.records[f"{name}/input"]
        span = max(record.highest, 0) - min(record.lowest, 0)
        assert float(constant(gemm.inputs[0].inputs[0], 1)) == pytest.approx(span / 255, rel=1e-6)


def test_what_is_kept_stays_a_float_product(on_cpu: Path, cpu_table: CalibrationTable) -> None:
    graph = made(on_cpu, cpu_table, keep=["blocks/0", "blocks/1/fc2"])

    kept = {linear.name for linear in linears(graph)}
    assert kept == {
        *(f"blocks/0/{part}" for part in ("attn/qkv", "attn/proj", "fc1", "fc2")), "blocks/1/fc2",
    }  # fmt: skip
    assert len(gemms(graph)) == LINEARS - 5


def test_the_graph_is_valid_to_the_strictest_check(
    on_cpu: Path, cpu_table: CalibrationTable, tmp_path: Path
) -> None:
    write_graph(made(on_cpu, cpu_table), tmp_path / "q.onnx")
    model = onnx.load(str(tmp_path / "q.onnx"))
    del model.graph.value_info[:]

    onnx.checker.check_model(model, full_check=True)


# Numbers


@pytest.mark.parametrize("limit", [FULL, REDUCED])
def test_every_product_is_that_of_whole_numbers(
    limit: int, on_cpu: Path, cpu_table: CalibrationTable, tmp_path: Path
) -> None:
    graph = made(on_cpu, cpu_table, limit)
    found = gemms(graph)
    write_graph(graph, tmp_path / "q.onnx")
    watched = []
    for gemm in found.values():
        flat = gemm.inputs[0].inputs[0].inputs[0].inputs[0].inputs[0]
        watched += [flat.name, gemm.outputs[0].name]
    values = run(tmp_path / "q.onnx", feed_of(on_cpu, images_of(1)), watched)

    for index, gemm in enumerate(found.values()):
        rows, actual = values[2 * index], values[2 * index + 1]
        expected = in_integers(rows, gemm)
        assert np.abs(actual - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("limit", [FULL, REDUCED])
def test_onnx_runtime_fuses_every_linear_into_one_product(
    limit: int, on_cpu: Path, cpu_table: CalibrationTable, tmp_path: Path
) -> None:
    write_graph(made(on_cpu, cpu_table, limit), tmp_path / "q.onnx")
    session = optimised(tmp_path / "q.onnx", tmp_path / "optimised.onnx")

    counts = Counter(
        node.op_type for node in onnx.load(str(tmp_path / "optimised.onnx")).graph.node
    )
    assert counts["QGemm"] == LINEARS
    assert counts["DequantizeLinear"] == 0
    feed = feed_of(on_cpu, images_of(4))
    fused = np.concatenate([session.run(None, {"images": row[None]})[0] for row in feed])
    (literal,) = run(tmp_path / "q.onnx", feed)
    if limit == REDUCED:  # nothing is clipped on any CPU; what rounds elsewhere may fall elsewhere
        assert sqnr_db(fused, literal) > 35


def optimised(path: Path, out: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(out)
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(("limit", "least"), [(FULL, 28.0), (REDUCED, 25.0)])
def test_the_answers_stay_near(
    limit: int, least: float, on_cpu: Path, cpu_table: CalibrationTable, tmp_path: Path
) -> None:
    write_graph(made(on_cpu, cpu_table, limit), tmp_path / "q.onnx")
    feed = feed_of(on_cpu, images_of(8, seed=2))

    (found,), (expected,) = run(tmp_path / "q.onnx", feed), run(on_cpu, feed)

    assert least < sqnr_db(found, expected) < 60


@pytest.mark.parametrize("batch", [4, (1, 4)])
def test_batches_are_rows_too(batch: Any, exports: Exports, tmp_path: Path) -> None:
    path = exports(batch=batch)
    table = calibrate(path, source_of(tmp_path / "i.npz", images_of(8), path))
    write_graph(made(path, table), tmp_path / "q.onnx")
    feed = feed_of(path, images_of(4))

    (found,) = run(tmp_path / "q.onnx", feed)

    (expected,) = run(path, feed)
    assert sqnr_db(found, expected) > 28


# A small graph, on purpose at the ends of the ranges


def small(weight: np.ndarray, bias: np.ndarray) -> Graph:
    """One fc1: (1, 3, in) -> (1, 3, out)."""
    outputs = weight.shape[1]
    x = gs.Variable("x", np.dtype(np.float32), (1, 3, weight.shape[0]))
    product = gs.Variable("product", np.dtype(np.float32), (1, 3, outputs))
    y = gs.Variable("y", np.dtype(np.float32), (1, 3, outputs))
    graph = gs.Graph(inputs=[x], outputs=[y], opset=20, name="small")
    weights = gs.Constant("w", weight.astype(np.float32))
    graph.layer(op="MatMul", name="blocks/0/fc1/MatMul", inputs=[x, weights], outputs=[product])
    biases = gs.Constant("b", bias.astype(np.float32))
    graph.layer(op="Add", name="blocks/0/fc1/Add", inputs=[product, biases], outputs=[y])
    return graph


def quantized(
    weight: np.ndarray, bias: np.ndarray, kept: tuple[float, float], x: np.ndarray
) -> tuple[np.ndarray, Any]:
    graph = small(weight, bias)
    policy = Policy("vit-linear", ("blocks/0/fc1",))
    integer_gemm.insert(graph, policy, {"x": kept}, largest_weight=FULL)
    model = gs.export_onnx(graph)
    model.ir_version = 10
    return run(model, x.astype(np.float32), ["y"])[0], gemms(graph)["blocks/0/fc1"]


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    low=st.floats(-10, 10),
    width=st.floats(0, 20),
    weight_size=st.sampled_from([1e-6, 1e-2, 1.0, 30.0]),
    bias_size=st.sampled_from([0.0, 1e-6, 1.0, 1e4]),
)
def test_any_linear_is_within_the_rounding_of_its_parts(
    seed: int, low: float, width: float, weight_size: float, bias_size: float
) -> None:
    generator = np.random.default_rng(seed)
    weight = weight_size * generator.normal(size=(6, 4))
    bias = bias_size * generator.normal(size=4)
    x = generator.uniform(low, low + width, (1, 3, 6)).astype(np.float32)

    found, gemm = quantized(weight, bias, (float(x.min()), float(x.max())), x)

    expected = x.astype(np.float64) @ weight.astype(np.float32) + bias
    activation, weights, biases = (tensor.inputs[0] for tensor in gemm.inputs)
    scale, steps = float(constant(activation, 1)), constant(weights, 1).astype(np.float64)
    span = np.abs(x).sum(axis=-1, keepdims=True).astype(np.float64)
    bound = (
        steps / 2 * (span + 6 * scale)
        + scale / 2 * np.abs(weight).sum(axis=0)
        + constant(biases, 1) / 2
    )
    assert (np.abs(found - expected) <= bound * 1.01 + 1e-5 * np.abs(expected).max() + 1e-7).all()
    assert np.abs(constant(biases, 0).astype(np.int64)).max() < 2**31 - 1


@given(
    low=st.floats(-10, -0.01),
    high=st.floats(0.01, 10),
    places=st.lists(st.floats(0, 1), max_size=8),
)
def test_both_ends_of_the_range_are_kept(low: float, high: float, places: list[float]) -> None:
    """The weights of the identity are exact: what is left is half a step of the activation."""
    shares = np.array([*places, 0.0, 1.0, *[0.5] * (10 - len(places))])
    x = (low + (high - low) * shares).reshape(1, 3, 4).astype(np.float32)

    found, gemm = quantized(np.eye(4), np.zeros(4), (low, high), x)

    scale = float(constant(gemm.inputs[0].inputs[0], 1))
    assert np.abs(found - x).max() <= scale * 0.502


@pytest.mark.parametrize("column", [0.0, 1e-30, 1e-12])
def test_the_bias_of_an_almost_empty_column_does_not_overflow(column: float) -> None:
    weight = np.full((4, 3), 0.5)
    weight[:, 1] = column
    bias = np.array([1.0, 500.0, -500.0])
    x = np.full((1, 3, 4), 1e-3)

    found, gemm = quantized(weight, bias, (0.0, 1e-3), x)

    stored = constant(gemm.inputs[2].inputs[0], 0).astype(np.int64)
    assert np.abs(stored).max() <= 2**30 + 2**8
    assert np.allclose(found, x @ weight + bias, rtol=1e-5)


def test_a_column_of_zeros_without_bias_is_zero() -> None:
    weight = np.full((4, 2), 0.5)
    weight[:, 1] = 0

    found, gemm = quantized(weight, np.zeros(2), (0.0, 1.0), np.full((1, 3, 4), 0.7))

    assert (found[..., 1] == 0).all()
    assert constant(gemm.inputs[1].inputs[0], 1)[1] == 1.0


@pytest.mark.parametrize("kept", [(0.0, 0.0), (2.0, 3.0), (-3.0, -2.0)])
def test_the_range_always_holds_zero(kept: tuple[float, float]) -> None:
    x = np.full((1, 3, 4), kept[1])
    weight = np.full((4, 2), 0.5)

    found, gemm = quantized(weight, np.ones(2), kept, x)

    activation = gemm.inputs[0].inputs[0]
    scale, zero = float(constant(activation, 1)), int(constant(activation, 2))
    assert 0 <= zero <= 255
    assert scale > 0
    assert np.allclose(found, x @ weight + 1, atol=4 * scale)


def test_a_tensor_without_a_range_is_an_error(on_cpu: Path) -> None:
    graph = read_graph(on_cpu)

    with pytest.raises(KeyError):
        integer_gemm.insert(graph, choose(graph, "vit-linear"), {}, largest_weight=FULL)
