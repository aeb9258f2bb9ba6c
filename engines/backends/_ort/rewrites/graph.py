"""An ONNX graph that rewrites change: who makes a tensor, who reads it, what is constant."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from engines.contract import Array
from engines.registry import import_or_explain

DOMAIN = "com.microsoft"
_SMALL = 64  # elements of a constant whose values decide something


class EditedGraph:
    """A graph that is being changed: who makes a tensor, who reads it, what is constant."""

    def __init__(self, model: Any) -> None:
        self.onnx: Any = import_or_explain("onnx")
        self.model = model
        graph = model.graph
        defaults = {value.name for value in graph.input}  # a caller may give another value
        self.constants = {t.name: t for t in graph.initializer if t.name not in defaults}
        self._defaults = [t for t in graph.initializer if t.name in defaults]
        self.maker = {name: node for node in graph.node for name in node.output}
        self.readers: dict[str, list[Any]] = defaultdict(list)
        for node in graph.node:
            for name in node.input:
                self.readers[name].append(node)
        self.kept = {value.name for value in graph.output}
        values = (*graph.value_info, *graph.input, *graph.output)
        self.types = {value.name: value.type.tensor_type.elem_type for value in values}
        self.shapes = {
            value.name: [d.dim_value or d.dim_param for d in value.type.tensor_type.shape.dim]
            for value in values
        }
        self._names = {node.name for node in graph.node}
        self._added: list[Any] = []
        self._shared: dict[tuple[object, ...], str] = {}

    def made_by(self, name: str, operator: str) -> Any | None:
        """Return the node that makes a tensor, if it is of that kind."""
        node = self.maker.get(name)
        return node if node is not None and node.op_type == operator else None

    def values(self, name: str) -> Array | None:
        """Return the values of a constant."""
        tensor = self.constants.get(name)
        return None if tensor is None else np.asarray(self.onnx.numpy_helper.to_array(tensor))

    def numbers(self, name: str) -> list[int] | None:
        """Return a small constant's values."""
        tensor = self.constants.get(name)
        if tensor is None or int(np.prod(tensor.dims)) > _SMALL:
            return None
        found = self.values(name)
        return None if found is None else [int(value) for value in np.ravel(found)]

    def is_vector(self, name: str) -> bool:
        """Say whether a tensor is a constant of one dimension."""
        return name in self.constants and len(self.constants[name].dims) == 1

    def is_bias(self, name: str, of: str) -> bool:
        """Say whether a constant is one number for each channel of a tensor (B, N, C)."""
        shape = self.shapes.get(of, [])
        return self.is_vector(name) and [*self.constants[name].dims] == shape[-1:]

    def only_reader(self, name: str) -> Any | None:
        """Return the node that reads a tensor, if it is the only one and nobody else sees it."""
        readers = self.readers[name]
        return readers[0] if len(readers) == 1 and name not in self.kept else None

    def constant(self, name: str, values: Array) -> str:
        """Add a constant under a name that is still free."""
        while name in self.constants:
            name += "_"
        tensor = self.onnx.numpy_helper.from_array(np.ascontiguousarray(values), name)
        self.constants[name] = tensor
        self.model.graph.initializer.append(tensor)
        return name

    def shape_constant(self, *extents: int) -> str:
        """Return a constant of int64 values, one for all who need the same."""
        key = ("shape", *extents)
        if key not in self._shared:
            text = "_".join(map(str, extents)).replace("-", "minus")
            self._shared[key] = self.constant(f"shape_{text}", np.array(extents, np.int64))
        return self._shared[key]

    def shared(self, key: tuple[object, ...]) -> str | None:
        """Return a tensor that was made for the same purpose before."""
        return self._shared.get(key)

    def share(self, key: tuple[object, ...], name: str) -> str:
        """Keep a tensor for others with the same purpose, and return it."""
        self._shared[key] = name
        return name

    def add(
        self,
        operator: str,
        inputs: Sequence[str],
        outputs: Sequence[str],
        *,
        name: str,
        domain: str = "",
        **attributes: Any,
    ) -> str:
        """Add a node and return its first output; its makers and readers are known at once.

        Where another node has its name, as where the names of all have no path, it gets a number.
        """
        unique = next(
            free
            for free in itertools.chain([name], self._numbered(name))
            if free not in self._names
        )
        self._names.add(unique)
        node = self.onnx.helper.make_node(
            operator, list(inputs), list(outputs), name=unique, domain=domain, **attributes
        )
        for output in filter(None, outputs):  # an output that is left out has no name
            self.maker[output] = node
        for read in filter(None, inputs):
            self.readers[read].append(node)
        self._added.append(node)
        return outputs[0]

    @staticmethod
    def _numbered(name: str) -> Iterable[str]:
        return (f"{name}_{number}" for number in itertools.count(2))

    def finish(self) -> None:
        """Drop what nobody reads any more, and put the nodes into an order that can run."""
        nodes = [node for node in (*self.model.graph.node, *self._added) if self._is_current(node)]
        wanted, open_names = set(), list(self.kept)
        while open_names:
            node = self.maker.get(open_names.pop())
            if node is not None and id(node) not in wanted:
                wanted.add(id(node))
                open_names += node.input
        ordered = self._ordered([node for node in nodes if id(node) in wanted])
        del self.model.graph.node[:]
        self.model.graph.node.extend(ordered)
        read = {name for node in ordered for name in node.input}
        used = [tensor for name, tensor in self.constants.items() if name in read]
        del self.model.graph.initializer[:]
        self.model.graph.initializer.extend([*self._defaults, *used])
        del self.model.graph.value_info[:]  # ONNX Runtime infers them, its own operators' too
        if DOMAIN not in {entry.domain for entry in self.model.opset_import}:
            self.model.opset_import.append(self.onnx.helper.make_opsetid(DOMAIN, 1))

    def _is_current(self, node: Any) -> bool:
        """Say whether a node still makes its outputs; a replaced one does not."""
        return any(self.maker.get(name) is node for name in node.output)

    def _ordered(self, nodes: Sequence[Any]) -> Iterable[Any]:
        made = {name for node in nodes for name in node.output if name}
        waiting = {id(node): {n for n in node.input if n in made} for node in nodes}
        readers: dict[str, list[Any]] = defaultdict(list)
        for node in nodes:
            for name in waiting[id(node)]:
                readers[name].append(node)
        ready = [node for node in nodes if not waiting[id(node)]]
        ordered = []
        while ready:
            node = ready.pop(0)
            ordered.append(node)
            for name in node.output:
                for reader in readers[name]:
                    waiting[id(reader)].discard(name)
                    if not waiting[id(reader)]:
                        ready.append(reader)
                readers[name] = []
        return ordered


def attribute(node: Any, name: str) -> Any:
    """Return an attribute of a node, None where it has none."""
    for given in node.attribute:
        if given.name == name:
            kinds = {1: "f", 2: "i", 3: "s", 7: "ints"}
            found = getattr(given, kinds[given.type])
            return list(found) if given.type == 7 else found
    return None
