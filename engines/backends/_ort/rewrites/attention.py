"""MatMul, Softmax, MatMul and the reshapes around them as one `MultiHeadAttention`.

The provider hands that operator to a flash-attention kernel. Queries, keys and values come out of
one product: its weights are reordered to (head, part, width), as the operator reads them packed,
and the bias of the product moves into the operator.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from engines.backends._ort.rewrites.graph import DOMAIN, EditedGraph, attribute
from engines.contract import Array

_SCORE_BIAS = 5  # the operator's input for what is added to the scores
_HEADS_FIRST = (2, 0, 3, 1, 4)  # (B, N, parts, H, D) to (parts, B, H, N, D)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Part:
    """Queries, keys or values as an attention reads them, and where they come from.

    Attributes:
        projected: The tensor (B, N, parts * H * D) that they are cut from.
        index: Which of its parts they are.
        parts: How many it has.
        heads: H.
        width: D.
        tokens: N.
    """

    projected: str
    index: int
    parts: int
    heads: int
    width: int
    tokens: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Projection:
    """A product with constant weights (C, parts * H * D) and a constant bias."""

    source: str
    weight: Array
    weight_name: str
    bias: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Attention:
    """An attention in the form that the operator has.

    Attributes:
        q: Its queries.
        k: Its keys; its values come right behind them in the same projection.
        scale: What the scores are multiplied by.
        bias: What is added to them, (B, 1, 1, N); "" without.
        output: The tensor (B, N, C) that it makes.
        name: Of the new node.
    """

    q: _Part
    k: _Part
    scale: float
    bias: str
    output: str
    name: str


def replace_attention(graph: EditedGraph, softmax: Any) -> bool:
    """Replace the attention around a softmax; return whether it has the known form."""
    found = _attention(graph, softmax)
    if found is None:
        return False
    if (found.q.projected, found.q.index, found.q.parts) == (found.k.projected, 0, 3):
        _replace_packed(graph, found)
        return True
    if (found.q.parts, found.k.parts) == (1, 2):
        _replace_apart(graph, found)
        return True
    return False


def _attention(graph: EditedGraph, softmax: Any) -> _Attention | None:
    """Return the attention around a softmax, None where something in it has another form."""
    if attribute(softmax, "axis") not in (None, -1, 3):
        return None
    score, bias = softmax.input[0], ""
    added = graph.made_by(score, "Add")
    if added is not None:
        score, bias = added.input
        if graph.made_by(score, "MatMul") is None:
            score, bias = bias, score
        if len(graph.shapes.get(bias, ())) != 4:
            return None
    product = graph.made_by(score, "MatMul")
    mixing = graph.only_reader(softmax.output[0])
    if product is None or mixing is None or mixing.op_type != "MatMul":
        return None
    query, query_scale = _without_scale(graph, product.input[0])
    columns, column_scale = _without_scale(graph, product.input[1])
    key, key_scale = _without_scale(graph, _before_turn(graph, columns))
    q, k, v = (_part(graph, name) for name in (query, key, mixing.input[1]))
    back = graph.only_reader(mixing.output[0])
    if back is None or attribute(back, "perm") != [0, 2, 1, 3]:
        return None
    flat = graph.only_reader(back.output[0])
    if q is None or k is None or v is None or flat is None or flat.op_type != "Reshape":
        return None
    if k.projected != v.projected or (k.index + 1, v.index + 1) != (v.index, v.parts):
        return None
    if len({(part.heads, part.width) for part in (q, k, v)}) > 1 or k.tokens != v.tokens:
        return None
    if len(graph.shapes.get(flat.output[0], ())) != 3:
        return None
    if bias and bias not in graph.maker:
        return None  # a caller's, whose type and extents are not ours to say
    return _Attention(
        q=q,
        k=k,
        scale=query_scale * column_scale * key_scale,
        bias=bias,
        output=flat.output[0],
        name="/".join([*softmax.name.split("/")[:-1], "MultiHeadAttention"]),
    )


def _replace_packed(graph: EditedGraph, found: _Attention) -> None:
    """Replace an attention whose queries, keys and values are cut from one projection."""
    projection = _projection(graph, found.q.projected)
    if projection is None:
        _add_attention(graph, found, _split(graph, found.q))
        return
    packed = _reordered(graph, found.q, projection)
    _add_attention(graph, found, [packed, "", "", projection.bias])


def _replace_apart(graph: EditedGraph, found: _Attention) -> None:
    """Replace an attention whose queries come from a projection of their own."""
    projection = _projection(graph, found.k.projected)
    if projection is None:
        _add_attention(graph, found, [found.q.projected, *_split(graph, found.k)])
        return
    # One constant added to all scores of a query changes no softmax, so the bias of the keys has
    # no effect; that of the values is added to what they are mixed to, as their weights sum to 1.
    inputs = [found.q.projected, _reordered(graph, found.k, projection)]
    mixed = _add_attention(graph, found, inputs, output=f"{found.output}/mixed")
    values = graph.values(projection.bias)
    assert values is not None
    shift = graph.constant(f"{found.name}/value_bias", values[values.size // 2 :])
    graph.add("Add", [mixed, shift], [found.output], name=f"{found.name}/Add")


def _add_attention(
    graph: EditedGraph, found: _Attention, inputs: Sequence[str], *, output: str = ""
) -> str:
    """Add the operator; return what it makes.

    Args:
        graph: What is changed.
        found: What is replaced.
        inputs: Queries, keys, values and the bias of their projection, as far as they are given.
        output: The tensor to make; "" takes that of the attention.
    """
    bias = _for_each_query(graph, found.bias, found.q.tokens) if found.bias else ""
    absent = [""] * (_SCORE_BIAS - len(inputs))
    return graph.add(
        "MultiHeadAttention",
        [*inputs, *absent, bias],
        [output or found.output],
        name=found.name,
        domain=DOMAIN,
        num_heads=found.q.heads,
        scale=found.scale,
    )


def _split(graph: EditedGraph, part: _Part) -> list[str]:
    """Cut a projection that is not one product and a bias, as a task's is, into its parts."""
    key = ("split", part.projected)
    outputs = [f"{part.projected}/{index}" for index in range(part.parts)]
    if graph.shared(key) is None:
        sizes = graph.shape_constant(*[part.heads * part.width] * part.parts)
        name = f"{part.projected}/Split"
        graph.share(key, graph.add("Split", [part.projected, sizes], outputs, name=name, axis=2))
    return outputs


def _reordered(graph: EditedGraph, part: _Part, found: _Projection) -> str:
    """Multiply by weights in the order (H, parts, D); return (B, N, H, parts, D), without bias."""
    order = (part.parts, part.heads, part.width)
    key = ("packed", part.projected)
    known = graph.shared(key)
    if known is not None:
        return known
    rows = len(found.weight)
    weight = found.weight.reshape(rows, *order).transpose(0, 2, 1, 3).reshape(rows, -1)
    name = found.weight_name.removesuffix(".weight")
    base = part.projected
    product = graph.add(
        "MatMul",
        [found.source, graph.constant(f"{name}.packed_weight", weight)],
        [f"{base}/packed"],
        name=f"{name.replace('.', '/')}/MatMul",
    )
    shape = graph.shape_constant(0, 0, part.heads, part.parts, part.width)
    reshaped = graph.add(
        "Reshape",
        [product, shape],
        [f"{base}/packed_heads"],
        name=f"{name.replace('.', '/')}/Reshape",
    )
    return graph.share(key, reshaped)


def _projection(graph: EditedGraph, name: str) -> _Projection | None:
    """Return the product and the bias that make a tensor."""
    added = graph.made_by(name, "Add")
    if added is None:
        return None
    product, bias = added.input
    if graph.is_vector(product):
        product, bias = bias, product
    node = graph.made_by(product, "MatMul")
    if node is None or not graph.is_vector(bias):
        return None
    weight = graph.values(node.input[1])
    if weight is None or weight.ndim != 2 or not graph.is_bias(bias, name):
        return None
    return _Projection(source=node.input[0], weight=weight, weight_name=node.input[1], bias=bias)


def _part(graph: EditedGraph, name: str) -> _Part | None:
    """Follow (B, H, N, D) back to the projection it was cut from."""
    squeezed = graph.made_by(name, "Squeeze")
    cut = squeezed and graph.made_by(squeezed.input[0], "Slice")
    turned = cut and graph.made_by(cut.input[0], "Transpose")
    shaped = turned and graph.made_by(turned.input[0], "Reshape")
    if not cut or len(cut.input) < 4:
        return None
    if (
        not shaped
        or len(graph.shapes.get(shaped.input[0], ())) != 3
        or tuple(attribute(turned, "perm") or ()) != _HEADS_FIRST
    ):
        return None
    begin, end, axis = (graph.numbers(given) for given in cut.input[1:4])
    shape = graph.numbers(shaped.input[1])
    if axis != [0] or not begin or not end or not shape or end[0] - begin[0] != 1:
        return None
    _, tokens, parts, heads, width = shape
    if min(shape[1:]) < 1:  # 0 and -1 leave an extent to be found
        return None
    return _Part(
        projected=shaped.input[0],
        index=begin[0],
        parts=parts,
        heads=heads,
        width=width,
        tokens=tokens,
    )


def _before_turn(graph: EditedGraph, name: str) -> str:
    """Return the keys (B, H, N, D) of (B, H, D, N); "" where that is not how they were made.

    PyTorch's exporter turns them with a Transpose of four dimensions, or of three between two
    Reshapes.
    """
    turned = graph.made_by(name, "Transpose")
    if turned is not None:
        return str(turned.input[0]) if attribute(turned, "perm") == [0, 1, 3, 2] else ""
    shaped = graph.made_by(name, "Reshape")
    turned = shaped and graph.made_by(shaped.input[0], "Transpose")
    flat = turned and graph.made_by(turned.input[0], "Reshape")
    if not shaped or not flat or attribute(turned, "perm") != [0, 2, 1]:
        return ""
    after, before = graph.numbers(shaped.input[1]), graph.numbers(flat.input[1])
    if not after or not before or len(after) != 4 or len(before) != 3:
        return ""
    return str(flat.input[0]) if after[2:] == before[:0:-1] else ""


def _without_scale(graph: EditedGraph, name: str) -> tuple[str, float]:
    """Return a tensor before its multiplication with one number, and the number."""
    node = graph.made_by(name, "Mul")
    if node is None:
        return name, 1.0
    for tensor, factor in (node.input, reversed(node.input)):
        values = graph.values(factor) if factor in graph.constants else None
        if values is not None and values.size == 1:
            return tensor, float(values.reshape(()))
    return name, 1.0


def _for_each_query(graph: EditedGraph, bias: str, queries: int) -> str:
    """Repeat (B, 1, 1, N) for each query, once for all blocks: (B, 1, queries, N)."""
    if queries == 1:
        return bias
    key = ("bias", bias, queries)
    known = graph.shared(key)
    if known is not None:
        return known
    dtype = graph.onnx.helper.tensor_dtype_to_np_dtype(graph.types[bias])
    rows = graph.constant("rows_of_the_key_bias", np.zeros((1, 1, queries, 1), dtype))
    repeated = graph.add("Add", [bias, rows], [f"{bias}/rows"], name="graph/KeyBiasRows")
    return graph.share(key, repeated)
