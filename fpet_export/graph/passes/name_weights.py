"""Give every weight the name of its module, so that a task switch can find it.

PyTorch's exporter stores the weight of a linear layer transposed, under a generated name.

Precondition: nodes carry their module path as name (`fpet_export.graph.to_onnx.name_nodes`).
Postcondition: every constant with more than `LARGE` elements has a dotted module name.
"""

from __future__ import annotations

import collections

import onnx_graphsurgeon as gs

from fpet_export.graph.passes import Graph

LARGE = 256
"""Elements above which a constant is a weight and not a shape or a factor."""


def apply(graph: Graph) -> int:
    """Rename generated names to `<module>.weight`, `<module>.weight_2`, …; return how many."""
    taken = collections.Counter(
        tensor.name for tensor in graph.tensors().values() if isinstance(tensor, gs.Constant)
    )
    changed = 0
    for node in graph.nodes:
        for tensor in node.inputs:
            if not _is_generated(tensor):
                continue
            name = node.name.rpartition("/")[0].replace("/", ".") + ".weight"
            taken[name] += 1
            if taken[name] > 1:
                name = f"{name}_{taken[name]}"
            tensor.name = name
            changed += 1
    return changed


def holds(graph: Graph) -> str | None:
    """Return the first weight that still has a generated name, as a sentence."""
    for node in graph.nodes:
        for tensor in node.inputs:
            if _is_generated(tensor):
                return f"{tensor.name} of {node.name} has no module name"
    return None


def is_weight(constant: Graph) -> bool:
    """Whether a constant has the name of a parameter or buffer."""
    return "." in constant.name or constant.name in ("position", "prefix_tokens")


def _is_generated(tensor: Graph) -> bool:
    is_large = isinstance(tensor, gs.Constant) and _size(tensor) > LARGE
    return is_large and not is_weight(tensor)


def _size(tensor: Graph) -> int:
    size = 1
    for extent in tensor.shape:
        size *= int(extent)
    return size
