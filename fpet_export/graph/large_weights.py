"""Weights apart from their graph, from the trace until the file is written.

The exporter's graph holds the weights as views of the module's own parameters. They stay that: the
passes read a graph whose large constants are only referred to, and the file is written from the
views, a tensor at a time, so that nothing is ever copied as a whole.

An ONNX file is one protobuf message and ends at 2 GiB; a ViT-H has 2.4 GiB of float32 weights. More
than that goes into a second file, which the graph names. Below that limit everything stays in one
file, which cannot be torn apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import onnx
import onnx_ir
from onnx.external_data_helper import ExternalDataInfo, set_external_data

LARGEST_BYTES = 2**31 - 2**20
"""Of weights inside a graph; the rest of a ViT's graph takes less than the difference to 2 GiB."""

Weights = Mapping[str, onnx_ir.TensorProtocol]
"""Large constants by the name that the graph without them refers to."""

_ALIGNMENT_BYTES = 4096  # a page, so that a runtime can map a tensor
_GRAPH, _INITIALIZER, _RAW_DATA = 7, 5, 9
"""Fields of `ModelProto`, `GraphProto` and `TensorProto` in onnx.proto."""


def split(model: onnx_ir.Model, *, smallest: int) -> tuple[onnx.ModelProto, Weights]:
    """Return a graph that refers to its large initializers, and these.

    Args:
        model: As the exporter made it; it is the same afterwards.
        smallest: Elements from which on a constant is apart.
    """
    weights: dict[str, onnx_ir.TensorProtocol] = {}
    try:
        for name, value in model.graph.initializers.items():
            held = value.const_value
            if held is None or held.size < smallest:
                continue
            weights[name] = held
            shape = onnx_ir.Shape(held.shape.numpy())
            value.const_value = onnx_ir.ExternalTensor(
                name, 0, held.nbytes, held.dtype, shape=shape, name=name
            )
        return onnx_ir.to_proto(model), weights
    finally:
        for name, held in weights.items():
            model.graph.initializers[name].const_value = held


def find(tensor: onnx.TensorProto, weights: Weights) -> onnx_ir.TensorProtocol:
    """Return the constant that a tensor of a graph without its weights refers to."""
    return weights[ExternalDataInfo(tensor).location]


def save(model: onnx.ModelProto, path: Path, weights: Weights) -> None:
    """Write a graph with the weights that it refers to.

    Args:
        model: Without its large constants; changed in place where they go into a second file.
        path: The `.onnx` file. Too many weights go into `<path>.data` beside it.
        weights: At least those that `model` refers to.
    """
    outside = [tensor for tensor in model.graph.initializer if tensor.external_data]
    if sum(find(tensor, weights).nbytes for tensor in outside) <= LARGEST_BYTES:
        with path.open("wb") as file:
            _write_whole(model, weights, file)
    else:
        _write_beside(outside, weights, path.with_name(f"{path.name}.data"))
        onnx.save_model(model, str(path))


def _write_whole(model: onnx.ModelProto, weights: Weights, file: BinaryIO) -> None:
    """Write one message. The fields of a message may stand in any order: the weights come last."""
    graph, shell = onnx.GraphProto(), onnx.ModelProto()
    graph.CopyFrom(model.graph)
    graph.ClearField("initializer")
    shell.CopyFrom(model)
    shell.ClearField("graph")
    lead = graph.SerializeToString()
    tensors = [_framed(tensor, weights) for tensor in model.graph.initializer]
    follow = sum(len(head) + (held.nbytes if held is not None else 0) for head, held in tensors)
    file.write(shell.SerializeToString() + _head(_GRAPH, len(lead) + follow) + lead)
    for head, held in tensors:
        file.write(head)
        if held is not None:
            file.write(held.tobytes())


def _framed(
    tensor: onnx.TensorProto, weights: Weights
) -> tuple[bytes, onnx_ir.TensorProtocol | None]:
    """Return an initializer's field up to its values, and what holds these, if they follow."""
    if not tensor.external_data:
        whole = tensor.SerializeToString()
        return _head(_INITIALIZER, len(whole)) + whole, None
    held, described = find(tensor, weights), onnx.TensorProto()
    described.CopyFrom(tensor)
    described.ClearField("external_data")
    described.ClearField("data_location")
    rest = described.SerializeToString() + _head(_RAW_DATA, held.nbytes)
    return _head(_INITIALIZER, len(rest) + held.nbytes) + rest, held


def _head(field: int, length: int) -> bytes:
    """Return what stands before the bytes of a field: its number, and how many they are."""
    return bytes([*_varint(field << 3 | 2), *_varint(length)])


def _varint(value: int) -> Iterator[int]:
    while value > 0x7F:
        yield value & 0x7F | 0x80
        value >>= 7
    yield value


def _write_beside(tensors: list[onnx.TensorProto], weights: Weights, target: Path) -> None:
    """Write the values of tensors into one file, one after the other, and refer to it."""
    with target.open("wb") as file:
        for tensor in tensors:
            held = find(tensor, weights)
            offset = file.seek(-(-file.tell() // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES)
            file.write(held.tobytes())
            # The helper refuses tensors without values, and keeps those that have some.
            tensor.raw_data = b""
            set_external_data(tensor, target.name, offset=offset, length=held.nbytes)
            tensor.ClearField("raw_data")
