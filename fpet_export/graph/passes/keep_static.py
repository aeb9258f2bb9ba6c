"""Refuse operators that break fusion, portability or static shapes. Changes nothing.

Precondition: none.
Postcondition: none of `FORBIDDEN` is in the graph; no node belongs to a foreign domain.
"""

from __future__ import annotations

from fpet_export.graph.passes import Graph

FORBIDDEN = {
    "ScatterElements": "TensorRT 8.6 ignores its reduction silently, RTX refuses it",
    "ScatterND": "no TensorRT parser supports its reduction",
    "TopK": "slow on TensorRT, and its order among equal values is not defined",
    "NonZero": "its output shape depends on the data",
    "If": "a branch splits the graph",
    "Loop": "a loop splits the graph",
    "Attention": "fails to build in float32 on TensorRT, slower on ONNX Runtime's CPU",
    "GatherND": "a gather by an index vector is a Gather",
}


def apply(graph: Graph) -> int:
    """Return 0; this pass only checks."""
    return 0


def holds(graph: Graph) -> str | None:
    """Return the first forbidden operator as a sentence, or None."""
    for node in graph.nodes:
        if node.op in FORBIDDEN:
            return f"{node.name} is a {node.op}: {FORBIDDEN[node.op]}"
        if node.domain not in (None, "", "ai.onnx"):
            return f"{node.name} belongs to the domain {node.domain!r}"
    return None
