"""MatMul, Softmax, MatMul and the reshapes around them as one `MultiHeadAttention`.

The provider hands that operator to a flash-attention kernel. Queries, keys and values come out of
one product: its weights are reordered to (head, part, width), as the operator reads them packed,
and the bias of the product moves into the operator.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from engines.backends._ort.rewrites.graph import DOMAIN, EditedGraph, attribute
from engines.contract import Array

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


def replace_attention(graph: EditedGraph, softmax: Any) -> bool:
    """Replace the attention around a softmax; return whether it has the known form."""
    if attribute(softmax, "axis") not in (None, -1, 3):
        return False
    score, bias = softmax.input[0], ""
    added = graph.made_by(score, "Add")
    if added is not None:
        score, bias = added.input
        if graph.made_by(score, "MatMul") is None:
            score, bias = bias, score
        if len(graph.shapes.get(bias, ())) != 4:
            return False
    product = graph.made_by(score, "MatMul")
    mixing = graph.only_reader(softmax.output[0])
    if product is None or mixing is None or mixing.op_type != "MatMul":
        return False
    query, query_scale = _without_scale(graph, product.input[0])
    columns, column_scale = _without_scale(graph, product.input[1])
    key, key_scale = _without_scale(graph, _before_turn(graph, columns))
    scale = query_scale * column_scale * key_scale
    q, k, v = (_part(graph, name) for name in (query, key, mixing.input[1]))
    back = graph.only_reader(mixing.output[0])
    if back is None or attribute(back, "perm") != [0, 2, 1, 3]:
        return False
    flat = graph.only_reader(back.output[0])
    if q is None or k is None or v is None or flat is None or flat.op_type != "Reshape":
        return False
    if k.projected != v.projected or (k.index + 1, v.index + 1) != (v.index, v.parts):
        return False
    if len({(part.heads, part.width) for part in (q, k, v)}) > 1 or k.tokens != v.tokens:
        return False
    if len(graph.shapes.get(flat.output[0], ())) != 3:
        return False
    if bias and bias not in graph.maker:
        return False  # a caller's, whose type and extents are not ours to say
    name = "/".join([*softmax.name.split("/")[:-1], "MultiHeadAttention"])
    output = flat.output[0]
    options: dict[str, Any] = {"num_heads": q.heads, "scale": scale, "domain": DOMAIN, "name": name}
    bias = _for_each_query(graph, bias, q.tokens) if bias else ""
    if (q.projected, q.index, q.parts) == (k.projected, 0, 3):
        found = _projection(graph, q.projected)
        if found is not None:
            inputs = [_reordered(graph, q, found), "", "", found.bias, "", bias]
        else:
            inputs = [*_split(graph, q), "", "", bias]
        graph.add("MultiHeadAttention", inputs, [output], **options)
        return True
    if (q.parts, k.parts) != (1, 2):
        return False
    found = _projection(graph, k.projected)
    if found is None:
        inputs = [q.projected, *_split(graph, k), "", "", bias]
        graph.add("MultiHeadAttention", inputs, [output], **options)
        return True
    # One constant added to all scores of a query changes no softmax, so the bias of the keys has
    # no effect; that of the values is added to what they are mixed to, as their weights sum to 1.
    mixed = graph.add(
        "MultiHeadAttention",
        [q.projected, _reordered(graph, k, found), "", "", "", bias],
        [f"{output}/mixed"],
        **options,
    )
    values = graph.values(found.bias)
    assert values is not None
    shift = graph.constant(f"{name}/value_bias", values[values.size // 2 :])
    graph.add("Add", [mixed, shift], [output], name=f"{name}/Add")
    return True


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
