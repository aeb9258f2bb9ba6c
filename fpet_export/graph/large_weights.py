"""Weights that no ONNX file can hold: they go into a second file, which the graph names.

An ONNX file is one protobuf message and ends at 2 GiB; a ViT-H has 2.4 GiB of float32 weights.
Below that limit everything stays in one file, which cannot be torn apart.
"""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx.external_data_helper import (
    ExternalDataInfo,
    load_external_data_for_tensor,
    set_external_data,
)

LARGEST_BYTES = 2**31 - 2**20
"""Of weights inside a graph; the rest of a ViT's graph takes less than the difference to 2 GiB."""

_ALIGNMENT_BYTES = 4096  # a page, so that a runtime can map a tensor


def save(model: onnx.ModelProto, path: Path, *, source: Path) -> None:
    """Write a graph whose large constants still lie in files of another folder.

    Args:
        model: Its large initializers refer to files in `source`; changed in place.
        path: The `.onnx` file. Too many weights go into `<path>.data` beside it.
        source: The folder of the files that `model` refers to.
    """
    outside = [tensor for tensor in model.graph.initializer if tensor.external_data]
    if sum(ExternalDataInfo(tensor).length or 0 for tensor in outside) <= LARGEST_BYTES:
        onnx.load_external_data_for_model(model, str(source))
    else:
        _move(outside, source, path.with_name(f"{path.name}.data"))
    onnx.save_model(model, str(path))


def _move(tensors: list[onnx.TensorProto], source: Path, target: Path) -> None:
    """Copy the tensors' bytes into one file, a tensor at a time, and refer to it."""
    with target.open("wb") as file:
        for tensor in tensors:
            load_external_data_for_tensor(tensor, str(source))
            offset = file.seek(-(-file.tell() // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES)
            length = file.write(tensor.raw_data)
            set_external_data(tensor, target.name, offset=offset, length=length)
            tensor.ClearField("raw_data")
