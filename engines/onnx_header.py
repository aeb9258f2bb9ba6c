"""What an ONNX file says about itself, read from its bytes with numpy alone.

A board has no `onnx` package, and a runtime's own words about a damaged file ("Protobuf parsing
failed") help nobody. So a small reader of the protobuf wire format walks the model once and finds
what every backend must know before a runtime sees the file: opsets, inputs and outputs, operators,
the types of the weights, and the files that hold external weights. Of the weights it reads only
those in INT8, whose range decides whether a CPU adds them up exactly.

Source: onnx/onnx.proto of ONNX 1.17 (field numbers never change), and the protobuf encoding guide.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from engines.errors import InputError
from engines.manifest import Dimension, TensorSpec

Buffer = bytes | memoryview

_DTYPES = {
    1: "float32",
    2: "uint8",
    3: "int8",
    4: "uint16",
    5: "int16",
    6: "int32",
    7: "int64",
    9: "bool",
    10: "float16",
    11: "float64",
    12: "uint32",
    13: "uint64",
    16: "bfloat16",
    17: "float8_e4m3fn",
    18: "float8_e4m3fnuz",
    19: "float8_e5m2",
    20: "float8_e5m2fnuz",
}
_ROUNDING = frozenset(("QuantizeLinear", "DynamicQuantizeLinear"))
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_DEPTH = 32
_FIX = "copy the file again and compare its size, or export it again"


@dataclasses.dataclass(frozen=True, kw_only=True)
class OnnxHeader:
    """The facts of one ONNX file.

    Attributes:
        opset: Version of the default operator set.
        domains: Version of every other operator set that the file imports.
        inputs: Without those that have an initializer, in the graph's order.
        outputs: In the graph's order.
        operators: Histogram of the operators, those in subgraphs included.
        weights: Elements of all initializers and constants, by dtype.
        largest_int8: Largest magnitude in INT8 weights, which are initializers of two axes or
            more; 128 where their bytes are not in the file as they are, 0 without any.
        external_files: Files with weights, relative to the graph's folder, sorted.
    """

    opset: int
    domains: dict[str, int]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    operators: dict[str, int]
    weights: dict[str, int]
    largest_int8: int
    external_files: tuple[str, ...]

    @property
    def is_quantized(self) -> bool:
        """Whether tensors are rounded to 8 bits while it runs."""
        return not _ROUNDING.isdisjoint(self.operators)

    @property
    def is_fp8(self) -> bool:
        """Whether they are rounded to floating point of 8 bits."""
        return self.is_quantized and any(name.startswith("float8") for name in self.weights)


class _DamagedError(Exception):
    """The bytes are not a whole ONNX model."""


@dataclasses.dataclass
class _Graph:
    inputs: list[TensorSpec] = dataclasses.field(default_factory=list)
    outputs: list[TensorSpec] = dataclasses.field(default_factory=list)
    initializers: set[str] = dataclasses.field(default_factory=set)


@dataclasses.dataclass
class _Found:
    operators: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    weights: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    largest_int8: int = 0
    external_files: set[str] = dataclasses.field(default_factory=set)


def read_onnx_header(path: Path) -> OnnxHeader:
    """Read the header of an ONNX file and check that its external weights are where they belong.

    Raises:
        InputError: There is no such file, it is not a whole ONNX model, or a file of external
            weights is missing or lies outside the graph's folder.
    """
    try:
        with path.open("rb") as file:
            is_empty = not file.seek(0, os.SEEK_END)
            # Unmapped when its last view goes: an exception still holds views of the bytes.
            content: Buffer = (
                b""
                if is_empty
                else memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            )
    except OSError as error:
        raise InputError(
            f"the graph cannot be read: {error.strerror}", where=str(path), fix="check the path"
        ) from error
    header = parse_onnx_header(content, where=str(path))
    _check_external_files(path, header.external_files)
    return header


def parse_onnx_header(content: Buffer, *, where: str) -> OnnxHeader:
    """Read the header of an ONNX model in memory; external files are listed, not checked.

    Args:
        content: The serialized ModelProto.
        where: Where it comes from, for messages.

    Raises:
        InputError: It is not a whole ONNX model.
    """
    if bytes(content[:40]).startswith(b"version https://git-lfs"):
        raise InputError(
            "this is a Git-LFS pointer, not the graph itself", where=where, fix="run: git lfs pull"
        )
    try:
        return _parse_model(memoryview(content))
    except _DamagedError as error:
        raise InputError(
            f"this is not a whole ONNX model: {error}", where=where, fix=_FIX
        ) from error


def _check_external_files(graph: Path, names: tuple[str, ...]) -> None:
    folder = graph.parent.resolve()
    for name in names:
        file = (folder / name).resolve()
        if Path(name).is_absolute() or folder not in file.parents:
            raise InputError(
                f"its external weights lie outside its folder: {name!r}",
                where=str(graph),
                fix="export it again with the weights inside, or beside the graph",
            )
        if not file.is_file():
            raise InputError(
                f"its external weights are missing: {name!r}",
                where=str(graph),
                fix=f"copy {name} into {folder}, or export again with the weights inside",
            )


def _parse_model(content: memoryview) -> OnnxHeader:
    opsets: dict[str, int] = {}
    graph: _Graph | None = None
    found = _Found()
    for field, value in _fields(content):
        if field == 8:
            domain, version = _parse_opset(_as_bytes(value))
            opsets[domain] = version
        elif field == 7:
            graph = _parse_graph(_as_bytes(value), found, depth=0)
        elif field == 25:
            for inner, node in _fields(_as_bytes(value)):
                if inner == 7:
                    _parse_node(_as_bytes(node), found, depth=0)
    if graph is None:
        raise _DamagedError("it holds no graph")
    if "" not in opsets:
        raise _DamagedError("it names no operator set")
    return OnnxHeader(
        opset=opsets.pop(""),
        domains=dict(sorted(opsets.items())),
        inputs=tuple(spec for spec in graph.inputs if spec.name not in graph.initializers),
        outputs=tuple(graph.outputs),
        operators=dict(sorted(found.operators.items())),
        weights=dict(sorted(found.weights.items())),
        largest_int8=found.largest_int8,
        external_files=tuple(sorted(found.external_files)),
    )


def _parse_opset(content: memoryview) -> tuple[str, int]:
    domain, version = "", 0
    for field, value in _fields(content):
        if field == 1:
            domain = _text(value)
        elif field == 2:
            version = _as_int(value)
    return ("" if domain == "ai.onnx" else domain), version


def _parse_graph(content: memoryview, found: _Found, *, depth: int) -> _Graph:
    if depth > _MAX_DEPTH:
        raise _DamagedError(f"its subgraphs are nested more than {_MAX_DEPTH} deep")
    graph = _Graph()
    for field, value in _fields(content):
        if field == 1:
            _parse_node(_as_bytes(value), found, depth=depth)
        elif field == 5:
            graph.initializers.add(_parse_tensor(_as_bytes(value), found))
        elif field == 11:
            graph.inputs.append(_parse_value(_as_bytes(value)))
        elif field == 12:
            graph.outputs.append(_parse_value(_as_bytes(value)))
    return graph


def _parse_node(content: memoryview, found: _Found, *, depth: int) -> None:
    operator, domain = "", ""
    for field, value in _fields(content):
        if field == 4:
            operator = _text(value)
        elif field == 7:
            domain = _text(value)
        elif field == 5:
            _parse_attribute(_as_bytes(value), found, depth=depth)
    found.operators[f"{domain}.{operator}" if domain not in ("", "ai.onnx") else operator] += 1


def _parse_attribute(content: memoryview, found: _Found, *, depth: int) -> None:
    for field, value in _fields(content):
        if field in (5, 10):
            _parse_tensor(_as_bytes(value), found)
        elif field in (6, 11):
            _parse_graph(_as_bytes(value), found, depth=depth + 1)


def _parse_tensor(content: memoryview, found: _Found) -> str:
    name, dtype = "", ""
    shape: list[int] = []
    raw: memoryview | None = None
    for field, value in _fields(content):
        if field == 1:
            shape += [value] if isinstance(value, int) else _packed(value)
        elif field == 2:
            code = _as_int(value)
            dtype = _DTYPES.get(code, f"type {code}")
        elif field == 8:
            name = _text(value)
        elif field == 9:
            raw = _as_bytes(value)
        elif field == 13:
            entry = {
                inner: _text(text) for inner, text in _fields(_as_bytes(value)) if inner in (1, 2)
            }
            if entry.get(1) == "location":
                found.external_files.add(entry.get(2, ""))
    found.weights[dtype] += math.prod(shape)
    if dtype == "int8" and len(shape) > 1:
        largest = 128 if raw is None else _largest(raw)
        found.largest_int8 = max(found.largest_int8, largest)
    return name


def _packed(content: memoryview) -> Iterator[int]:
    offset = 0
    while offset < len(content):
        number, offset = _varint(content, offset)
        yield number


def _largest(raw: memoryview) -> int:
    values = np.frombuffer(raw, np.int8)
    return max(int(values.max()), -int(values.min())) if values.size else 0


def _parse_value(content: memoryview) -> TensorSpec:
    name, dtype, shape = "", "unknown", ()  # type: tuple[str, str, tuple[Dimension, ...]]
    for field, value in _fields(content):
        if field == 1:
            name = _text(value)
        elif field == 2:
            for kind, tensor in _fields(_as_bytes(value)):
                if kind == 1:
                    dtype, shape = _parse_tensor_type(_as_bytes(tensor))
    return TensorSpec(name=name, shape=shape, dtype=dtype)


def _parse_tensor_type(content: memoryview) -> tuple[str, tuple[Dimension, ...]]:
    dtype = "unknown"
    shape: list[Dimension] = []
    for field, value in _fields(content):
        if field == 1:
            code = _as_int(value)
            dtype = _DTYPES.get(code, f"type {code}")
        elif field == 2:
            for inner, dimension in _fields(_as_bytes(value)):
                if inner == 1:
                    shape.append(_parse_dimension(_as_bytes(dimension), axis=len(shape)))
    return dtype, tuple(shape)


def _parse_dimension(content: memoryview, *, axis: int) -> Dimension:
    for field, value in _fields(content):
        if field == 1:
            return _as_int(value)
        if field == 2 and len(_as_bytes(value)):
            return _text(value)
    return f"unnamed_{axis}"


def _fields(content: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Walk the fields of one message: number, and its integer or its bytes."""
    offset, end = 0, len(content)
    while offset < end:
        key, offset = _varint(content, offset)
        field, kind = key >> 3, key & 7
        if kind == _VARINT:
            number, offset = _varint(content, offset)
            yield field, number
            continue
        if kind == _BYTES:
            length, offset = _varint(content, offset)
        elif kind in (_FIXED64, _FIXED32):
            length = 8 if kind == _FIXED64 else 4
        else:
            raise _DamagedError(f"wire type {kind} at byte {offset}")
        if length > end - offset:
            raise _DamagedError(f"{length - (end - offset)} bytes are missing")
        yield field, content[offset : offset + length]
        offset += length


def _varint(content: memoryview, offset: int) -> tuple[int, int]:
    number = 0
    for shift in range(0, 70, 7):
        if offset >= len(content):
            raise _DamagedError("it ends in the middle of a field")
        byte = content[offset]
        offset += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, offset
    raise _DamagedError(f"a number at byte {offset} has more than 10 bytes")


def _as_bytes(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise _DamagedError("a number stands where a message belongs")
    return value


def _as_int(value: int | memoryview) -> int:
    if not isinstance(value, int):
        raise _DamagedError("a message stands where a number belongs")
    return value


def _text(value: int | memoryview) -> str:
    return str(bytes(_as_bytes(value)), "utf-8", "replace")
