"""Write every operator as the graph's opset has it.

PyTorch's exporter writes opset 18 and newer; older runtimes read up to 17. So a graph of opset 17
is exported as 18 (which has no Gelu yet: the exporter writes its erf form) and rewritten here, in
place, so that nodes keep their names: the axes of a reduction become an attribute, and the number
of parts of a Split becomes their sizes.

Precondition: `graph.opset` is the opset asked for, and the nodes are those of it or of 18.
Postcondition: every node is an operator of that opset, with no more inputs and no other
attributes than it has there.

Source: the ONNX operator changelog, as `onnx.defs` holds it.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from fpet_export.graph.passes import Graph


def apply(graph: Graph) -> int:
    """Rewrite the nodes that the graph's opset has in an older form; return how many."""
    changed = 0
    for node in graph.nodes:
        schema = _schema(node, graph.opset)
        if schema is None:
            continue
        if "axes" in schema.attributes and len(node.inputs) == 2:
            changed += _axes_to_attribute(node)
        elif node.op == "Split" and "num_outputs" in set(node.attrs) - set(schema.attributes):
            changed += _parts_to_sizes(node)
    return changed


def holds(graph: Graph) -> str | None:
    """Return the first node that is not of the graph's opset, as a sentence."""
    for node in graph.nodes:
        if node.domain not in (None, "", "ai.onnx"):
            continue
        schema = _schema(node, graph.opset)
        if schema is None:
            return f"{node.name} is a {node.op}, which opset {graph.opset} does not have"
        if len(node.inputs) > schema.max_input:
            return (
                f"{node.name} has {len(node.inputs)} inputs, {node.op} of opset {graph.opset} "
                f"has {schema.max_input}"
            )
        unknown = sorted(set(node.attrs) - set(schema.attributes))
        if unknown:
            return (
                f"{node.name} has the attribute {unknown[0]}, {node.op} of opset {graph.opset} "
                "does not"
            )
    return None


def _schema(node: Graph, opset: int) -> onnx.defs.OpSchema | None:
    try:
        return onnx.defs.get_schema(node.op, opset, node.domain or "")
    except onnx.defs.SchemaError:
        return None


def _axes_to_attribute(node: Graph) -> int:
    """Move the constant axes of a reduction; what stays an input `holds` refuses."""
    axes = node.inputs[1]
    if not isinstance(axes, gs.Constant) or node.attrs.get("noop_with_empty_axes"):
        return 0
    node.attrs["axes"] = [int(axis) for axis in np.ravel(axes.values)]
    node.attrs.pop("noop_with_empty_axes", None)
    del node.inputs[1]
    return 1


def _parts_to_sizes(node: Graph) -> int:
    """Replace the number of equal parts by their sizes, where those are static."""
    axis = node.attrs.get("axis", 0)
    sizes = [part.shape[axis] if part.shape else None for part in node.outputs]
    if not all(isinstance(size, int) for size in sizes):
        return 0
    del node.attrs["num_outputs"]
    node.inputs.append(gs.Constant(f"{node.outputs[0].name}_sizes", np.array(sizes, np.int64)))
    return 1
