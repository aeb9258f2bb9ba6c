"""Keep one copy of equal small constants: shapes, indices, factors.

Precondition: none.
Postcondition: no two constants of up to `SMALL` elements have the same type, shape and values.
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from fpet_export.graph.passes import SMALL, Graph


def apply(graph: Graph) -> int:
    """Point every consumer at the first of equal constants; return how many were dropped."""
    first: dict[tuple[object, ...], Graph] = {}
    dropped = set()
    for node in graph.nodes:
        for index, tensor in enumerate(node.inputs):
            key = _key(tensor)
            if key is None:
                continue
            kept = first.setdefault(key, tensor)
            if kept is not tensor:
                node.inputs[index] = kept
                dropped.add(tensor.name)
    graph.cleanup().toposort()
    return len(dropped)


def holds(graph: Graph) -> str | None:
    """Return two equal constants as a sentence, or None."""
    seen: dict[tuple[object, ...], str] = {}
    for tensor in graph.tensors().values():
        key = _key(tensor)
        if key is not None and seen.setdefault(key, tensor.name) != tensor.name:
            return f"{tensor.name} equals {seen[key]}"
    return None


def _key(tensor: Graph) -> tuple[object, ...] | None:
    if not isinstance(tensor, gs.Constant) or "." in tensor.name:
        return None
    shape = tuple(tensor.shape)
    values = tensor.values if _is_small(shape) else None
    return None if values is None else (str(values.dtype), shape, values.tobytes())


def _is_small(shape: tuple[int, ...]) -> bool:
    size = 1
    for extent in shape:
        size *= int(extent)
    return size <= SMALL
