"""The trial that finds out whether INT8 sums are clipped; runtimes and CPUs are played here."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from engines.backends import ort
from engines.backends._ort import saturation
from engines.machine import processor

FloatArray = NDArray[np.float32]


def exact(model: bytes, x: FloatArray) -> FloatArray:
    """The model as ONNX's own reference runs it."""
    (result,) = ReferenceEvaluator(onnx.load_from_string(model)).run(None, {"x": x})
    return np.asarray(result)


def clipping(model: bytes, x: FloatArray) -> FloatArray:
    """The same with vpmaddubsw: sums of two products in 16 bits."""
    graph = onnx.load_from_string(model).graph
    weight = next(numpy_helper.to_array(t) for t in graph.initializer if t.name == "weight")
    products = x.astype(np.int32)[:, :, None] * weight.astype(np.int32)
    pairs = products[:, ::2] + products[:, 1::2]
    return np.asarray(np.clip(pairs, -(2**15), 2**15 - 1).sum(axis=1), np.float32)


def test_the_model_is_valid_onnx() -> None:
    model = onnx.load_from_string(saturation.probe())

    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node].count("DequantizeLinear") == 2


def test_exact_sums_do_not_saturate() -> None:
    assert not saturation.saturates(exact)


def test_clipped_sums_do() -> None:
    assert saturation.saturates(clipping)


@given(
    weight=st.integers(-saturation.LARGEST_EXACT, saturation.LARGEST_EXACT),
    other=st.integers(-saturation.LARGEST_EXACT, saturation.LARGEST_EXACT),
    bytes_=st.tuples(st.integers(0, 255), st.integers(0, 255)),
)
def test_reduced_weights_cannot_be_clipped(
    weight: int, other: int, bytes_: tuple[int, int]
) -> None:
    assert -(2**15) <= weight * bytes_[0] + other * bytes_[1] < 2**15


def test_one_more_can() -> None:
    assert 2 * 255 * (saturation.LARGEST_EXACT + 1) >= 2**15


def test_a_cpu_with_vnni_is_found_exact() -> None:
    if not {"avx512_vnni", "avx_vnni"} & set(processor.instruction_sets()):
        pytest.skip("needs a CPU with VNNI")

    assert not ort.saturates_here()
