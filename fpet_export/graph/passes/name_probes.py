"""Name the two tensors that an audit reads: the match and the sizes of the merged tokens.

Precondition: the merge is written as one ArgMax, from which rows may be cut and ties dropped,
and the key bias as one Log of the sizes.
Postcondition: with a merge there is exactly one tensor `match`, and `size` if a later block reads
it; without a merge there is neither.
"""

from __future__ import annotations

from fpet_export.graph.passes import Graph

MATCH, SIZE = "match", "size"
_ON_THE_WAY = ("Slice", "Where")


def apply(graph: Graph) -> int:
    """Name what the merge reads of the ArgMax, and the input of the Log; return how many."""
    changed = 0
    for node in graph.nodes:
        if node.op == "ArgMax":
            _match_from(node).name = MATCH
            changed += 1
        elif node.op == "Log":
            node.inputs[0].name = SIZE
            changed += 1
    return changed


def _match_from(node: Graph) -> Graph:
    """Follow an ArgMax over the choice of rows and the dropping of ties, where there are such."""
    tensor = node.outputs[0]
    while len(tensor.outputs) == 1 and tensor.outputs[0].op in _ON_THE_WAY:
        tensor = tensor.outputs[0].outputs[0]
    return tensor


def holds(graph: Graph) -> str | None:
    """Return what is wrong with the two names, or None."""
    counts = {op: sum(node.op == op for node in graph.nodes) for op in ("ArgMax", "Log")}
    if max(counts.values()) > 1:
        return f"{counts['ArgMax']} ArgMax and {counts['Log']} Log nodes, wanted at most one each"
    names = graph.tensors()
    for op, name in (("ArgMax", MATCH), ("Log", SIZE)):
        if bool(counts[op]) != (name in names):
            return f"there is {'no' if counts[op] else 'a'} tensor {name!r}"
    return None
