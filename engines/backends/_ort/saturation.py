"""Whether a runtime's INT8 products are exact on this CPU, found out by trying one.

x86 CPUs without VNNI multiply unsigned by signed bytes with `vpmaddubsw`. It adds two products in
16 bits and clips the sum, so 2 · 255 · 127 = 64770 becomes 32767. Weights up to 64 in magnitude
cannot reach that: 2 · 255 · 64 = 32640. Nothing reports the clipping; the answers are wrong.

Measured on an emulated Haswell, ONNX Runtime 1.31.1 and OpenVINO 2026.4.1: 255 · 127 summed 64
times gives 1048544 in place of 2072640 on both, 65 in place of 127 is clipped too, 64 is not.
Source: Intel, "Intrinsics Guide", _mm256_maddubs_epi16.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]

LARGEST_EXACT = 64
"""Largest magnitude of an INT8 weight whose products with unsigned bytes no CPU clips."""

_ROWS, _INNER, _COLUMNS = 8, 64, 32
_OPSET, _IR = 20, 10
_FLOAT, _UINT8, _INT8 = 1, 2, 3


def saturates(run: Callable[[bytes, FloatArray], FloatArray]) -> bool:
    """Say whether the sums of INT8 products come out clipped.

    Args:
        run: Opens a serialized ONNX model with every rewrite, runs it on its one input, and
            returns its one output. The model is `Gemm(DQ(Q(x)), DQ(weight))`, the form in which
            graphs are quantized for CPUs; every sum in it is a whole number below 2^24.
    """
    x = np.full((_ROWS, _INNER), 255, np.float32)
    return bool((run(probe(), x) != np.float32(_INNER * 255 * 127)).any())


def probe() -> bytes:
    """Return the model that `saturates` runs, x (8, 64) to y (8, 32), as a ModelProto."""
    constants = [
        _constant("scale", _FLOAT, np.array(1, np.float32)),
        _constant("zero", _UINT8, np.array(0, np.uint8)),
        _constant("weight", _INT8, np.full((_INNER, _COLUMNS), 127, np.int8)),
        _constant("weight_scale", _FLOAT, np.ones(_COLUMNS, np.float32)),
        _constant("weight_zero", _INT8, np.zeros(_COLUMNS, np.int8)),
    ]
    nodes = [
        _node("QuantizeLinear", ["x", "scale", "zero"], "q"),
        _node("DequantizeLinear", ["q", "scale", "zero"], "rows"),
        _node("DequantizeLinear", ["weight", "weight_scale", "weight_zero"], "columns"),
        _node("Gemm", ["rows", "columns"], "y"),
    ]
    graph = _message(
        *((1, node) for node in nodes),
        (2, b"saturation"),
        *((5, constant) for constant in constants),
        (11, _float_value("x", (_ROWS, _INNER))),
        (12, _float_value("y", (_ROWS, _COLUMNS))),
    )
    return _message((1, _IR), (8, _message((2, _OPSET))), (7, graph))


def _node(operator: str, inputs: list[str], output: str) -> bytes:
    named = ((1, name.encode()) for name in inputs)
    return _message(*named, (2, output.encode()), (4, operator.encode()))


def _constant(name: str, kind: int, value: NDArray[np.generic]) -> bytes:
    extents = ((1, extent) for extent in value.shape)
    return _message(*extents, (2, kind), (8, name.encode()), (9, value.tobytes()))


def _float_value(name: str, shape: tuple[int, ...]) -> bytes:
    extents = _message(*((1, _message((1, extent))) for extent in shape))
    return _message((1, name.encode()), (2, _message((1, _message((1, _FLOAT), (2, extents))))))


def _message(*fields: tuple[int, int | bytes]) -> bytes:
    """Encode one protobuf message of integers and of bytes; numbers as in `onnx.proto`."""
    parts = []
    for number, value in fields:
        if isinstance(value, int):
            parts += [_varint(number << 3), _varint(value)]
        else:
            parts += [_varint(number << 3 | 2), _varint(len(value)), value]
    return b"".join(parts)


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])
