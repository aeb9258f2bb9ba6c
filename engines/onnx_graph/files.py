"""Graphs on disk to `onnx_graphsurgeon` graphs and back.

A graph comes with its manifest, which is checked first; what is written is checked by ONNX.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.logger import G_LOGGER

from engines import storage
from engines.errors import ExportError
from engines.onnx_header import read_onnx_header

Graph = Any
"""An `onnx_graphsurgeon.Graph`, which has no type information."""

Node = Any
Tensor = Any

LARGEST_BYTES = 2**31 - 2**24
"""Of weights inside one file, which is a protobuf message and ends at 2 GiB."""


def read_graph(path: Path) -> Graph:
    """Read a graph with its weights.

    Raises:
        InputError: It is not a whole ONNX graph, or weights beside it are missing.
    """
    read_onnx_header(path)
    model = onnx.load(str(path))
    with _quiet():
        graph = gs.import_onnx(model)
    _use_numpy_types(graph, model)
    return graph


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep graphsurgeon from printing about types that it leaves to `_use_numpy_types`."""
    before = G_LOGGER.severity
    G_LOGGER.severity = G_LOGGER.ERROR
    try:
        yield
    finally:
        G_LOGGER.severity = before


def _use_numpy_types(graph: Graph, model: onnx.ModelProto) -> None:
    """Give bfloat16 and FP8 tensors their numpy types, which graphsurgeon does not know."""
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    for tensor in graph.tensors().values():
        if not isinstance(tensor.dtype, int):
            continue
        if isinstance(tensor, gs.Constant):
            tensor.values = onnx.numpy_helper.to_array(stored[tensor.name])
        else:
            tensor.dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.dtype))


def write_graph(graph: Graph, path: Path) -> None:
    """Sort, check and write a graph, atomically; weights beyond 2 GiB go into `<path>.data`.

    Raises:
        ExportError: It is not valid ONNX.
    """
    graph.cleanup().toposort()
    model = gs.export_onnx(graph, do_type_check=False)
    with storage.atomic_path(path) as temporary:
        save_model(model, temporary)
        require_valid(
            temporary, fix="report this with the graph's manifest and the version of onnx"
        )


def require_valid(path: Path, *, fix: str) -> None:
    """Refuse a file that is not valid ONNX, with the checker's first line.

    Raises:
        ExportError: It is not.
    """
    try:
        onnx.checker.check_model(str(path))
    except onnx.checker.ValidationError as error:
        raise ExportError(
            f"the graph is not valid ONNX: {str(error).strip().splitlines()[0]}",
            where=path.name,
            fix=fix,
        ) from error


def save_model(model: onnx.ModelProto, path: Path) -> None:
    """Write a model that is whole in memory; too many weights go into `<path>.data`."""
    weights = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    if weights <= LARGEST_BYTES:
        onnx.save_model(model, str(path))
    else:
        onnx.save_model(model, str(path), save_as_external_data=True, location=f"{path.name}.data")


class Names:
    """Hands out names that no node and no tensor of a graph has."""

    def __init__(self, graph: Graph) -> None:
        self._taken = {node.name for node in graph.nodes} | set(graph.tensors())

    def new(self, wanted: str) -> str:
        """Return `wanted`, or `wanted_2` and so on where it is taken."""
        name, number = wanted, 1
        while name in self._taken:
            number += 1
            name = f"{wanted}_{number}"
        self._taken.add(name)
        return name


def module_path(node: Node) -> str:
    """Return the module that a node belongs to: `blocks/3/fc1/MatMul` is of `blocks/3/fc1`."""
    return str(node.name.rpartition("/")[0])


def block_of(name: str) -> int | None:
    """Return the index of the block that a node or module belongs to, or None."""
    parts = name.split("/")
    return int(parts[1]) if parts[0] == "blocks" and len(parts) > 1 else None
