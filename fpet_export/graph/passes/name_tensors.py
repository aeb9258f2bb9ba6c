"""Name every tensor after its node, so that tables and plans say what they are about.

PyTorch's exporter numbers what a graph computes in the order in which it came upon it. Named after
their nodes, tensors say where in the network they lie, and have the same names however the graph
was traced.

Precondition: every node has a name of its own, every weight that of its module.
Postcondition: what a node makes is `<node>_output_<n>`, unless the graph gives it out or an audit
reads it; a constant that is no weight is `<node>_input_<n>` of the first node that read it.
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from fpet_export.graph.passes import Graph
from fpet_export.graph.passes.name_probes import is_probe
from fpet_export.graph.passes.name_weights import is_weight


def apply(graph: Graph) -> int:
    """Rename what nodes make, and the constants that are no weights; return how many."""
    changed = 0
    named: set[int] = set()
    for node in graph.nodes:
        for index, tensor in enumerate(node.inputs):
            is_value = isinstance(tensor, gs.Constant) and not is_weight(tensor)
            if is_value and id(tensor) not in named:
                named.add(id(tensor))
                tensor.name = f"{node.name}_input_{index}"
                changed += 1
        for tensor, name in _made(graph, node):
            changed += tensor.name != name
            tensor.name = name
    return changed


def holds(graph: Graph) -> str | None:
    """Return the first tensor that is not named after the node that makes it, as a sentence."""
    for node in graph.nodes:
        for tensor, name in _made(graph, node):
            if tensor.name != name and not is_probe(tensor):
                return f"{tensor.name} is made by {node.name}"
    return None


def _made(graph: Graph, node: Graph) -> list[tuple[Graph, str]]:
    """Return what a node makes inside the graph, and how that is called."""
    given = [id(tensor) for tensor in graph.outputs]
    return [
        (tensor, f"{node.name}_output_{index}")
        for index, tensor in enumerate(node.outputs)
        if id(tensor) not in given and not tensor.is_empty()
    ]
