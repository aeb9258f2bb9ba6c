"""A traced template to the shared graph: the template's task weights become inputs."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from calibration.casts import cast_graph
from engines.errors import ExportError
from engines.manifest import Manifest
from engines.onnx_graph.files import read_graph, write_graph
from engines.precisions import FP16, FP32
from engines.tasks.inputs import TaskInput, assemble
from fpet_export.graph.freeze import FrozenVit
from fpet_export.graph.large_weights import Weights, find
from fpet_export.graph.passes import Graph
from fpet_export.tasks.template import Template

_TOLERANCE = 1e-6
"""Relative difference of a folded weight in numpy and in PyTorch, rounded to float32 once each."""


def base_weights(module: FrozenVit, inputs: Sequence[TaskInput]) -> dict[str, NDArray[np.float32]]:
    """Return the (in, out) weights of a frozen backbone without adapters that inputs start from.

    Args:
        module: The backbone, frozen with the options of the template.
        inputs: As `fpet_export.tasks.recipes.recipes` gives them.
    """
    found = {}
    for wanted in inputs:
        if wanted.base is not None:
            weight = module.get_parameter(wanted.base)
            found[wanted.base] = np.ascontiguousarray(weight.detach().numpy().T)
    return found


class Promotion:
    """Turns the template's task weights into inputs of its traced graph.

    Attributes:
        inputs: After `apply`: the inputs in the layout in which the graph reads them.
    """

    def __init__(
        self,
        template: Template,
        inputs: Sequence[TaskInput],
        base: dict[str, NDArray[np.float32]],
    ) -> None:
        self.inputs = tuple(inputs)
        self._template, self._base = template, base

    def apply(self, graph: Graph, weights: Weights) -> None:
        """Change the graph in place.

        Args:
            graph: Traced, cleaned up.
            weights: Its large constants.

        Raises:
            ExportError: A task's weight is not, or not only once, among the graph's constants.
        """
        constants = _constants_by_size(graph)
        promoted = []
        for wanted in self.inputs:
            value = self._of_template(wanted)
            found = []
            for tensor in constants.get(value.size, []):
                held = _values(tensor, weights)
                for form, turned in ((wanted, value), (_turned(wanted), value.T)):
                    if form is not None and held.shape == turned.shape and _equal(held, turned):
                        found.append((tensor, form))
                        break
            if len(found) != 1:
                raise ExportError(
                    f"the task's weight {wanted.name} is {len(found)} times among the graph's "
                    "constants, wanted once",
                    where="fpet_export/tasks/graph.py",
                    fix="report this with the versions of torch, onnx and onnxscript",
                )
            tensor, form = found[0]
            form = dataclasses.replace(form, constant=tensor.name)
            _promote(graph, tensor, form)
            promoted.append(form)
        graph.cleanup().toposort()
        self.inputs = tuple(promoted)

    def _of_template(self, wanted: TaskInput) -> NDArray[np.floating]:
        return assemble(
            wanted,
            self._template.weights.__getitem__,
            parts=self._template.parts,
            scale=1.0,
            base=self._base,
        )


def type_graph(path: Path, manifest: Manifest) -> Manifest:
    """Type a shared graph in float16, in place, with the inputs of its tasks.

    Args:
        path: The graph in float32.
        manifest: Manifest of the graph in float32.

    Returns:
        The manifest with the types as they are now.

    Raises:
        ExportError: A weight is too large for float16.
    """
    graph = read_graph(path)
    tasks = [spec.name for spec in manifest.inputs[1:]]
    cast_graph(graph, FP16, io=FP32, typed_inputs=tasks)
    operators = Counter(node.op for node in graph.nodes)
    dtypes = {tensor.name: np.dtype(tensor.dtype).name for tensor in graph.inputs}
    write_graph(graph, path)
    return dataclasses.replace(
        manifest,
        precision=FP16,
        operators=dict(sorted(operators.items())),
        inputs=tuple(
            dataclasses.replace(spec, dtype=dtypes[spec.name]) for spec in manifest.inputs
        ),
    )


def _constants_by_size(graph: Graph) -> dict[int, list[Graph]]:
    found: dict[int, list[Graph]] = {}
    for tensor in graph.tensors().values():
        if isinstance(tensor, gs.Constant) and np.dtype(tensor.dtype) == np.float32:
            found.setdefault(int(np.prod(tensor.shape)), []).append(tensor)
    return found


def _values(tensor: Graph, weights: Weights) -> NDArray[np.float32]:
    """Return the values of a constant, which the graph may only refer to."""
    held = tensor._values
    if isinstance(held, np.ndarray):
        return held
    if held.tensor.external_data:
        return find(held.tensor, weights).numpy()
    return onnx.numpy_helper.to_array(held.tensor)


def _equal(held: NDArray[np.float32], value: NDArray[np.floating]) -> bool:
    difference = np.abs(held.astype(np.float64) - value)
    return bool(difference.max() <= _TOLERANCE * np.abs(value).max())


def _turned(wanted: TaskInput) -> TaskInput | None:
    """Return the input in the other layout; None where its pieces have places of their own."""
    if len(wanted.shape) != 2 or any(piece.column for piece in wanted.pieces):
        return None
    pieces = tuple(dataclasses.replace(p, transposed=not p.transposed) for p in wanted.pieces)
    turned = dataclasses.replace(wanted, shape=wanted.shape[::-1], pieces=pieces)
    if wanted.stack == "none":
        return turned
    return dataclasses.replace(turned, stack="rows" if wanted.stack == "columns" else "columns")


def _promote(graph: Graph, tensor: Graph, wanted: TaskInput) -> None:
    """Replace a constant by an input of the graph."""
    extents = {
        extent: name
        for extent, name in zip(tensor.shape, wanted.shape, strict=True)
        if isinstance(name, str)
    }
    variable = gs.Variable(wanted.name, dtype=np.dtype(wanted.dtype), shape=wanted.shape)
    for node in list(tensor.outputs):
        node.inputs = [variable if entry is tensor else entry for entry in node.inputs]
    graph.inputs.append(variable)
    for extent, name in extents.items():
        _open_extent(variable, int(extent), name)


def _open_extent(tensor: Graph, extent: int, name: str) -> None:
    """Give an extent that a task decides its name, downstream, until nothing has it any more."""
    todo = list(tensor.outputs)
    while todo:
        for made in todo.pop().outputs:
            if made.shape is not None and made.shape[-1] == extent:
                made.shape = [*made.shape[:-1], name]
                todo += made.outputs
