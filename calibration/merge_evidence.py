"""What a merge decides by the graph's own keys, found again in float64.

Rounding moves keys, and then another match is the right one. Whatever the precision, the match of a
graph must follow from the numbers that this graph compares: cosines of keys or of tokens and, where
tokens are pruned, their importance. They are read beside the match, so every block that merges is
judged on every image, also behind a block that merged otherwise than the reference.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.manifest import MergeStep, ModelFacts
from engines.onnx_graph.files import Graph, Node, block_of
from engines.parity.model_outputs import FloatArray, IntArray

_NOTHING = -2  # no match has it: -1 is a token that joins none
FLOAT32_ROUNDING = 1e-5
"""Of a cosine of some hundred products in float32; the margin of a float32 graph's gate."""


@dataclasses.dataclass(frozen=True)
class Evidence:
    """Names of the tensors by which one block decides; None for what it does not ask.

    Attributes:
        step: What the block does.
        sources: (B, S, D) vectors; those of the tokens that the match is about are the last ones.
        targets: (B, D, T) vectors of the tokens that they may join.
        importance: (B, Na) by which tokens are pruned.
    """

    step: MergeStep
    sources: str | None
    targets: str | None
    importance: str | None

    @property
    def tensors(self) -> tuple[str, ...]:
        """The names that there are."""
        found = (self.sources, self.targets, self.importance)
        return tuple(name for name in found if name is not None)


def evidence_of(graph: Graph, model: ModelFacts) -> tuple[Evidence, ...]:
    """Return by what each block of a graph that merges decides, in order."""
    return tuple(_of_step(graph, step) for step in model.merges)


def decided(
    evidence: Evidence, found: Mapping[str, NDArray[Any]], prefix: int
) -> tuple[IntArray, FloatArray]:
    """Return (B, Na) the match that follows, and by how much each decision was won.

    Args:
        evidence: Of one block.
        found: Its tensors, by name.
        prefix: Tokens in front of the patches.
    """
    step, cosines = evidence.step, None
    if evidence.sources is not None and evidence.targets is not None:
        rows = _unit(found[evidence.sources][:, -step.sources :])
        cosines = rows @ _unit(found[evidence.targets].transpose(0, 2, 1)).transpose(0, 2, 1)
    if evidence.importance is not None:
        importance = found[evidence.importance].astype(np.float64)
        return _by_importance(step, importance, cosines, prefix)
    if cosines is None:  # its match is no search over a product: nothing follows from anything
        shape = (len(next(iter(found.values()))), step.sources)
        return np.full(shape, _NOTHING), np.full(shape, np.inf)
    return _by_likeness(step, cosines)


def unsupported(match: IntArray, own: NDArray[Any], margin: FloatArray) -> NDArray[np.bool_]:
    """Return (I, Na) which decisions do not follow from what the graph compared.

    Args:
        match: (I, Na) of the graph.
        own: (I, Na) of `decided`.
        margin: (I, Na) likewise.
    """
    wrong: NDArray[np.bool_] = (match != own) & (margin > FLOAT32_ROUNDING)
    return wrong


def _by_likeness(step: MergeStep, cosines: FloatArray) -> tuple[IntArray, FloatArray]:
    """Let the sources that are most like a target join it, as many as the step merges."""
    match, margin = cosines.argmax(axis=-1), _won(cosines)
    if step.merged == step.sources:
        return match, margin
    best = cosines.max(axis=-1)
    order = np.argsort(-best, axis=-1, kind="stable")
    joins = np.zeros(match.shape, dtype=bool)
    np.put_along_axis(joins, order[:, : step.merged], True, axis=1)
    least = np.where(joins, best, np.inf).min(axis=1, keepdims=True)
    most = np.where(joins, -np.inf, best).max(axis=1, keepdims=True)
    margin = np.where(joins, np.minimum(best - most, margin), least - best)
    return np.where(joins, match, -1), margin


def _by_importance(
    step: MergeStep, importance: FloatArray, cosines: FloatArray | None, prefix: int
) -> tuple[IntArray, FloatArray]:
    """Keep the most important, let the next ones join one that is kept, and prune the rest."""
    kept = step.after - prefix
    limits = (kept, kept + step.merged)
    order = np.argsort(-importance, axis=-1, kind="stable")
    ordered = np.take_along_axis(importance, order, axis=1)
    rank = np.argsort(order, axis=-1)
    margin = np.full(importance.shape, np.inf)
    for limit in (one for one in limits if one < importance.shape[1]):
        above, below = ordered[:, limit - 1 : limit], ordered[:, limit : limit + 1]
        margin = np.minimum(margin, np.where(rank < limit, importance - below, above - importance))
    stays, joins = rank < kept, (rank >= kept) & (rank < limits[1])
    match = np.where(stays, np.arange(importance.shape[1]), -1)
    if cosines is not None:
        allowed = np.where(stays[:, None, :], cosines, -np.inf)
        # Where another one may be kept as well, each of those that join may join that one.
        gap = ordered[:, kept - 1 : kept] - ordered[:, kept : kept + 1]
        match = np.where(joins, allowed.argmax(axis=-1), match)
        margin = np.where(joins, np.minimum(np.minimum(margin, _won(allowed)), gap), margin)
    return match, margin


def _won(scores: FloatArray) -> FloatArray:
    """Return (…,) by how much the best of (…, T) scores is above the second best."""
    if scores.shape[-1] < 2:
        return np.full(scores.shape[:-1], np.inf)
    best = np.partition(scores, -2, axis=-1)
    won: FloatArray = best[..., -1] - best[..., -2]
    return won


def _unit(vectors: NDArray[Any]) -> FloatArray:
    wide = vectors.astype(np.float64)
    unit: FloatArray = wide / np.maximum(np.linalg.norm(wide, axis=-1, keepdims=True), 1e-6)
    return unit


def _of_step(graph: Graph, step: MergeStep) -> Evidence:
    inside = [
        node for node in graph.nodes if block_of(node.name) == step.block and "/merge/" in node.name
    ]
    product = next((_product_of(node) for node in inside if node.op == "ArgMax"), None)
    compared = next((_compared_by(node) for node in inside if node.op == "Greater"), None)
    if compared is not None and compared.inputs[0].op == "ReduceMax":
        compared = None  # how like they are, which follows from the vectors
    return Evidence(
        step,
        None if product is None else product.inputs[0].name,
        None if product is None else product.inputs[1].name,
        None if compared is None else compared.name,
    )


def _product_of(search: Node) -> Node:
    """Return what makes the scores of an ArgMax; some may be masked on the way."""
    node = search.inputs[0].inputs[0]
    while node.op != "MatMul":
        node = next(tensor.inputs[0] for tensor in node.inputs[::-1] if tensor.inputs)
    return node


def _compared_by(node: Node) -> Any:
    """Return the tensor whose numbers are all compared with each other."""
    return node.inputs[0].inputs[0].inputs[0]
