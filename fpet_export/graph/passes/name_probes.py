"""Name the tensors that an audit reads: the match of each merge and the sizes of the tokens.

Precondition: each merge has one ArgMax below its module, from which rows may be cut and others put
aside, or, where it only prunes, one Where of whole numbers; the key bias behind it is one Log of
the sizes.
Postcondition: one merge has the tensor `match`, of several block 3 has `match.3`; `size` is what
the last Log reads, if there is one.
"""

from __future__ import annotations

import numpy as np

from fpet_export.graph.passes import Graph

MATCH, SIZE = "match", "size"
_ON_THE_WAY = ("Slice", "Where")


def apply(graph: Graph) -> int:
    """Name what each merge decides, and the input of the last Log; return how many."""
    searches = _searches(graph)
    for node in searches:
        _match_from(node).name = _role(node, searches)
    logs = _of(graph, "Log")
    if logs:
        logs[-1].inputs[0].name = SIZE
    return len(searches) + bool(logs)


def is_probe(tensor: Graph) -> bool:
    """Whether a tensor has a name that an audit asks for."""
    return tensor.name in (MATCH, SIZE) or bool(tensor.name.startswith(f"{MATCH}."))


def _of(graph: Graph, op: str) -> list[Graph]:
    return [node for node in graph.nodes if node.op == op]


def _searches(graph: Graph) -> list[Graph]:
    """Return what decides in each merge: its ArgMax, or what marks the tokens that it prunes."""
    searches = _of(graph, "ArgMax")
    known = {_block(node) for node in searches}
    marks = [node for node in _of(graph, "Where") if "/merge/" in node.name]
    return searches + [
        node
        for node in marks
        if _block(node) not in known and node.outputs[0].dtype == np.dtype(np.int64)
    ]


def _block(node: Graph) -> str:
    return str(node.name.split("/")[1])


def _role(node: Graph, searches: list[Graph]) -> str:
    """Return the role of a match; see `engines.manifest.ModelFacts.match_role`."""
    return MATCH if len(searches) == 1 else f"{MATCH}.{_block(node)}"


def _match_from(node: Graph) -> Graph:
    """Follow an ArgMax over the choice of rows and the dropping of ties, where there are such."""
    tensor = node.outputs[0]
    while len(tensor.outputs) == 1 and tensor.outputs[0].op in _ON_THE_WAY:
        tensor = tensor.outputs[0].outputs[0]
    return tensor


def holds(graph: Graph) -> str | None:
    """Return what is wrong with the names, or None."""
    searches, names = _searches(graph), graph.tensors()
    wanted = [_role(node, searches) for node in searches]
    if len(set(wanted)) < len(wanted):
        return f"{len(searches)} decisions in {len(set(wanted))} blocks, wanted one each"
    found = [name for name in names if name == MATCH or name.startswith(f"{MATCH}.")]
    if sorted(found) != sorted(wanted):
        return f"there are {sorted(found)}, wanted {sorted(wanted)}"
    if bool(_of(graph, "Log")) != (SIZE in names):
        return f"there is {'a' if SIZE in names else 'no'} tensor {SIZE!r}"
    return None
