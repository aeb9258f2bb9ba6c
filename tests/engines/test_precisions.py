"""One record a precision: what it says agrees with numpy's types, and every target knows it."""

from __future__ import annotations

from typing import Any, get_args

import ml_dtypes
import numpy as np
import pytest

from engines import precisions
from engines.parity.gates import TYPED_GATES
from engines.precisions import PRECISIONS


def dtype_of(name: str) -> np.dtype[Any]:
    return np.dtype(getattr(ml_dtypes, name, name))


def limits_of(name: str) -> Any:
    dtype: Any = dtype_of(name)
    finfo: Any = ml_dtypes.finfo
    return np.iinfo(dtype) if dtype.kind == "i" else finfo(dtype)


def test_every_name_has_one_record() -> None:
    assert tuple(PRECISIONS) == get_args(precisions.Name)
    assert get_args(precisions.TypedName) == precisions.TYPED
    assert get_args(precisions.HalfName) == precisions.HALVES
    assert get_args(precisions.QuantizedName) == precisions.QUANTIZED
    assert set(get_args(precisions.FactorName)) <= set(PRECISIONS)
    assert [name for name, one in PRECISIONS.items() if one.is_half] == list(precisions.HALVES)
    quantized = [name for name, one in PRECISIONS.items() if one.needs_ranges]
    assert quantized == list(precisions.QUANTIZED)
    assert set(TYPED_GATES) == set(precisions.TYPED)


@pytest.mark.parametrize("name", precisions.HALVES)
def test_the_unit_roundoff_is_that_of_the_type(name: str) -> None:
    found = PRECISIONS[name]
    assert found.unit_roundoff == float(limits_of(found.storage_dtype).eps) / 2


@pytest.mark.parametrize("name", precisions.QUANTIZED)
def test_the_levels_are_the_range_of_the_type(name: str) -> None:
    found = PRECISIONS[name]
    assert found.levels is not None
    limits = limits_of(found.storage_dtype)
    assert found.levels.are_uniform == (dtype_of(found.storage_dtype).kind == "i")
    assert (found.levels.lowest, found.levels.largest) == (float(limits.min), float(limits.max))
    assert found.float_precision in precisions.HALVES


def test_the_first_half_precision_is_float16() -> None:
    assert precisions.half_in(("bf16", "fp16", "int8")) == "fp16"
    assert precisions.half_in(("fp32", "bf16")) == "bf16"
    assert precisions.half_in(("fp32", "int8")) is None


def test_an_unknown_name_is_neither_half_nor_quantized() -> None:
    assert not precisions.is_half("fp64")
    assert not precisions.is_quantized("unknown")
