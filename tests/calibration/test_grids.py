"""INT8 and FP8 rounding: ONNX Runtime's own operators are the reference, bit for bit."""

from __future__ import annotations

import functools
from typing import Any

import ml_dtypes
import numpy as np
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from onnx import TensorProto, helper

from calibration.grids import FP8, GRIDS, INT8, SMALLEST_SCALE, Grid

ONNX_TYPES = {"int8": TensorProto.INT8, "fp8": TensorProto.FLOAT8E4M3FN}
FLOAT_TYPES = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16}


@functools.cache
def _session(grid: str, dtype: str) -> Any:
    """x, scale -> DequantizeLinear(QuantizeLinear(x)), as ONNX Runtime computes it."""
    kind = FLOAT_TYPES[dtype]
    zero = helper.make_tensor("zero", ONNX_TYPES[grid], [], b"\x00", raw=True)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
    ]
    inputs = [
        helper.make_tensor_value_info("x", kind, ["n"]),
        helper.make_tensor_value_info("scale", kind, []),
    ]
    outputs = [helper.make_tensor_value_info("y", kind, ["n"])]
    model = helper.make_model(
        helper.make_graph(nodes, "pair", inputs, outputs, [zero]),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    settings = onnxruntime.SessionOptions()
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    settings.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(
        model.SerializeToString(), settings, providers=["CPUExecutionProvider"]
    )


def reference(grid: Grid, values: np.ndarray, scale: np.ndarray) -> np.ndarray:
    session = _session(grid.name, str(values.dtype))
    (found,) = session.run(None, {"x": values, "scale": np.asarray(scale)})
    return np.asarray(found)


GRID = st.sampled_from([INT8, FP8])
ONE = np.asarray(1, np.float32)
AMAX = st.floats(2.0**-10, 30000)


@given(
    GRID,
    AMAX,
    npst.arrays(np.float32, st.integers(1, 40), elements=st.floats(-3, 3, width=32)),
    st.sampled_from(["float32", "float16"]),
)
def test_rounding_is_that_of_onnx_runtime(
    grid: Grid, amax: float, shares: np.ndarray, dtype: str
) -> None:
    """Up to three times the range, so that clipping takes part."""
    values = np.clip(shares * amax, -65504, 65504).astype(dtype)
    scale = grid.scale(amax, np.dtype(dtype))

    expected = reference(grid, values, scale)
    assert np.array_equal(grid.rounded(values, scale).astype(dtype), expected)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_ties_go_to_even(dtype: str) -> None:
    scale = np.asarray(0.25, dtype)
    halves = (np.arange(-130, 130) + 0.5).astype(dtype) * scale

    found = INT8.quantized(halves, scale)

    expected = [2 * round(float(half) / 2) for half in np.arange(-130, 130) + 0.5]
    assert found.tolist() == np.clip(expected, -128, 127).tolist()
    assert np.array_equal(INT8.rounded(halves, scale).astype(dtype), reference(INT8, halves, scale))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("grid", [INT8, FP8])
def test_every_number_of_the_grid_and_every_middle_between_two(grid: Grid, dtype: str) -> None:
    if grid is INT8:
        numbers = np.arange(-128, 128, dtype=np.float64)
    else:
        numbers = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float64)
        numbers = np.unique(numbers[np.isfinite(numbers)])
    scale = np.asarray(2.0**-3, dtype)
    middles = (numbers[1:] + numbers[:-1]) / 2
    values = (np.concatenate([numbers, middles]) * float(scale)).astype(dtype)

    found = grid.rounded(values, scale)

    assert np.array_equal(found[: len(numbers)], values[: len(numbers)].astype(np.float32))
    assert np.array_equal(found.astype(dtype), reference(grid, values, scale))


def test_beyond_the_range_is_clipped_and_never_wraps() -> None:
    values = np.array([-65504, -448, 448, 449, 65504], np.float32)

    assert FP8.quantized(values, ONE).astype(np.float32).tolist() == [
        -448, -448, 448, 448, 448,
    ]  # fmt: skip
    assert INT8.quantized(values, ONE).tolist() == [-128, -128, 127, 127, 127]


def test_one_scale_an_output_channel() -> None:
    values = np.array([[1.0, 100.0], [-0.5, 30.0]], np.float32)
    scale = INT8.scale(np.abs(values).max(axis=0), np.dtype(np.float32))

    found = INT8.quantized(values, scale)

    assert scale.shape == (2,)
    assert found.tolist() == [[127, 127], [-64, 38]]


@given(GRID, st.floats(0, 65504), st.sampled_from(["float32", "float16", "bfloat16"]))
def test_the_scale_is_never_below_the_smallest_normal_float16(
    grid: Grid, amax: float, dtype: str
) -> None:
    scale = grid.scale(amax, np.dtype(dtype))

    assert scale.dtype == np.dtype(dtype)
    assert float(scale) >= SMALLEST_SCALE == np.finfo(np.float16).smallest_normal
    exact = amax / grid.largest
    if exact > SMALLEST_SCALE:
        assert float(scale) == pytest.approx(exact, rel=2.0**-8)


@given(GRID, st.floats(1.0, 65000), st.sampled_from(["float32", "float16"]))
def test_amax_is_on_the_grid(grid: Grid, amax: float, dtype: str) -> None:
    """Up to the digits of the scale: nothing of the range that was asked for is cut off."""
    scale = grid.scale(amax, np.dtype(dtype))
    found = grid.rounded(np.array([amax, -amax], np.float32), scale)

    slack = 2.0**-11 if dtype == "float16" else 2.0**-23
    assert found[0] == -found[1]
    assert float(found[0]) == pytest.approx(amax, rel=slack)


GOLDEN = {
    # amax: scale of INT8 in float32 and float16, of FP8 likewise; bits, from exact fractions
    0.0: (0x38800000, 0x0400, 0x38800000, 0x0400),
    0.0078125: (0x38810204, 0x0408, 0x38800000, 0x0400),
    0.15: (0x3A9ACF38, 0x14D6, 0x39AF8AF9, 0x0D7C),
    1.0: (0x3C010204, 0x2008, 0x3B124925, 0x1892),
    6.0: (0x3D418306, 0x2A0C, 0x3C5B6DB7, 0x22DB),
    127.0: (0x3F800000, 0x3C00, 0x3E912492, 0x3489),
    448.0: (0x4061C387, 0x430E, 0x3F800000, 0x3C00),
    1000.0: (0x40FBF7F0, 0x47E0, 0x400EDB6E, 0x4077),
    65504.0: (0x4400F1E4, 0x6008, 0x431236DB, 0x5892),
}


@pytest.mark.parametrize("amax", GOLDEN)
def test_golden_scales(amax: float) -> None:
    found = [
        np.asarray(grid.scale(amax, np.dtype(kind))).view(bits).item()
        for grid in (INT8, FP8)
        for kind, bits in ((np.float32, np.uint32), (np.float16, np.uint16))
    ]

    assert [hex(value) for value in found] == [hex(value) for value in GOLDEN[amax]]


def test_the_grids_go_by_their_names() -> None:
    assert {name: grid.name for name, grid in GRIDS.items()} == {"int8": "int8", "fp8": "fp8"}
    assert INT8.dtype == np.int8
    assert FP8.dtype == ml_dtypes.float8_e4m3fn
    patterns = np.arange(256, dtype=np.uint8).view(FP8.dtype).astype(np.float32)
    assert patterns[np.isfinite(patterns)].max() == FP8.largest
