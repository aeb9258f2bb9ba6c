"""Clean-ups of the exported graph, each one file with its precondition and its postcondition.

A pass is a module with `apply(graph) -> int` (how many places it changed) and `holds(graph) ->
str | None` (why its promise does not hold, or None). The pipeline runs them in the order of
`ORDER` and checks every promise right after its pass and once more at the end, so that a later
pass cannot undo an earlier one unnoticed.
"""

from __future__ import annotations

from typing import Any, Protocol, cast

from engines import registry
from engines.errors import ExportError
from fpet_export.graph import passes as graph_passes

ORDER = (
    "fit_opset",
    "name_weights",
    "name_tensors",
    "name_probes",
    "share_constants",
    "keep_static",
)

SMALL = 64
"""Elements up to which a pass may read a constant's values; the others may be on disk."""

Graph = Any
"""An `onnx_graphsurgeon.Graph`, which has no type information."""


class GraphPass(Protocol):
    """What a file in `fpet_export/graph/passes/` offers."""

    def apply(self, graph: Graph) -> int:
        """Change the graph in place; return the number of places that changed."""

    def holds(self, graph: Graph) -> str | None:
        """Return why the pass's promise does not hold, or None when it does."""


def run(graph: Graph) -> dict[str, int]:
    """Run all passes in order and return how many places each changed.

    Raises:
        ExportError: A promise does not hold after its pass or at the end.
    """
    passes = {name: cast(GraphPass, registry.load(graph_passes, name)) for name in ORDER}
    changed = {}
    for name, entry in passes.items():
        changed[name] = entry.apply(graph)
        _check(name, entry, graph, "right after it")
    for name, entry in passes.items():
        _check(name, entry, graph, "after all passes")
    return changed


def _check(name: str, entry: GraphPass, graph: Graph, when: str) -> None:
    problem = entry.holds(graph)
    if problem is not None:
        raise ExportError(
            f"the graph pass {name} did not do what it must ({when}): {problem}",
            where=f"fpet_export/graph/passes/{name}.py",
            fix="this is a bug or a new exporter: report it with the versions of torch and onnx",
        )
