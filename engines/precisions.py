"""The precisions that a graph or an engine can have: one record each, asked everywhere.

A precision is named by a string in manifests, on the command line and in file names. What follows
from the name stands here, once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Final, Literal

FP32: Final = "fp32"
FP16: Final = "fp16"
BF16: Final = "bf16"
INT8: Final = "int8"
FP8: Final = "fp8"

Name = Literal["fp32", "fp16", "bf16", "int8", "fp8"]
TypedName = Literal["fp16", "bf16", "int8", "fp8"]
HalfName = Literal["fp16", "bf16"]
QuantizedName = Literal["int8", "fp8"]
FactorName = Literal["fp32", "fp16"]
"""In what the graphs and the dense factors of a folder of tasks can be."""
InputOutput = Literal["fp32", "typed", "uint8"]
"""Pixels and logits of a typed graph: both float32, both of its own type, or raw pixels."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Levels:
    """The numbers that a quantized tensor can hold, in steps of its scale.

    Attributes:
        lowest: The smallest.
        largest: The largest; the largest magnitude that is kept is mapped to it.
        are_uniform: Whether they are whole numbers; else they are floating-point numbers.
    """

    lowest: float
    largest: float
    are_uniform: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Precision:
    """One precision.

    Attributes:
        name: As users and manifests write it.
        storage_dtype: In what weights are stored, as numpy and ml_dtypes name it.
        compute_dtype: The type of activations; None where they are quantized, too: what is not
            quantized is then in `float_precision`, or float32 on a CPU.
        unit_roundoff: Largest relative error of rounding one number to a half precision.
        levels: What a quantized tensor can hold; None for floating point.
        float_precision: Of what is not quantized, unless the user names another.
        smallest_opset: ONNX opset from which QuantizeLinear takes half-precision numbers and
            gives this type; 1 where nothing is quantized.
    """

    name: Name
    storage_dtype: str
    compute_dtype: str | None = None
    unit_roundoff: float | None = None
    levels: Levels | None = None
    float_precision: HalfName | None = None
    smallest_opset: int = 1

    @property
    def is_quantized(self) -> bool:
        """Whether numbers are stored in 8 bits with a scale."""
        return self.levels is not None

    @property
    def needs_ranges(self) -> bool:
        """Whether activations need ranges that a calibration finds on images."""
        return self.is_quantized

    @property
    def is_half(self) -> bool:
        """Whether it is a 16-bit floating-point type."""
        return self.unit_roundoff is not None


_ALL = (
    Precision(name=FP32, storage_dtype="float32", compute_dtype="float32"),
    Precision(name=FP16, storage_dtype="float16", compute_dtype="float16", unit_roundoff=2.0**-11),
    Precision(name=BF16, storage_dtype="bfloat16", compute_dtype="bfloat16", unit_roundoff=2.0**-8),
    Precision(
        name=INT8,
        storage_dtype="int8",
        levels=Levels(lowest=-128.0, largest=127.0, are_uniform=True),
        float_precision=FP16,
        smallest_opset=19,
    ),
    Precision(
        name=FP8,
        storage_dtype="float8_e4m3fn",
        levels=Levels(lowest=-448.0, largest=448.0, are_uniform=False),
        float_precision=FP16,
        smallest_opset=19,
    ),
)

PRECISIONS: Mapping[str, Precision] = {each.name: each for each in _ALL}

HALVES: tuple[HalfName, ...] = (FP16, BF16)
QUANTIZED: tuple[QuantizedName, ...] = (INT8, FP8)
TYPED: tuple[TypedName, ...] = (*HALVES, *QUANTIZED)
"""What a float32 graph can be typed in."""


def is_quantized(name: str) -> bool:
    """Whether a precision stores numbers in 8 bits; an unknown one does not."""
    return name in QUANTIZED


def is_half(name: str) -> bool:
    """Whether a precision is a 16-bit floating-point type; an unknown one is not."""
    return name in HALVES


def half_in(names: Iterable[str]) -> HalfName | None:
    """Return the first half precision, FP16 before BF16, that is among the names."""
    known = tuple(names)
    return next((name for name in HALVES if name in known), None)
