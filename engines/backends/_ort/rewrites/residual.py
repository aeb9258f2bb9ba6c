"""What stands around the products of a block: their biases, the residual sums, norms and GELUs.

The sum of a residual branch and the LayerNormalization behind it become one
`SkipLayerNormalization`, together with the bias of the branch's last product; the bias of a product
and the GELU behind it become one `BiasGelu`.
"""

from __future__ import annotations

from typing import Any

from engines.backends._ort.rewrites.graph import DOMAIN, EditedGraph, attribute

_EPSILON = 1e-5  # of an ONNX LayerNormalization that names none; SkipLayerNormalization has 1e-12


def replace_skip_norm(graph: EditedGraph, norm: Any) -> bool:
    """Replace a LayerNormalization and the sum of two like tensors that it reads."""
    total = norm.input[0]
    added = graph.made_by(total, "Add")
    if added is None or len(norm.input) != 3 or attribute(norm, "axis") not in (None, -1, 2):
        return False
    if len(norm.output) > 1 or not all(graph.is_bias(name, total) for name in norm.input[1:]):
        return False
    one, other = added.input
    shape = graph.shapes.get(one)
    if not shape or len(shape) != 3 or shape != graph.shapes.get(other):
        return False
    branch, bias = _before_bias(graph, other)
    skip = one
    if not bias:
        branch, bias = _before_bias(graph, one)
        skip = other if bias else one
        branch = branch if bias else other
    outputs = [norm.output[0], "", "", total]
    if graph.only_reader(total) is norm:
        outputs = outputs[:1]
    graph.add(
        "SkipLayerNormalization",
        [branch, skip, *norm.input[1:], *([bias] if bias else [])],
        outputs,
        name=norm.name.replace("LayerNormalization", "SkipLayerNormalization"),
        domain=DOMAIN,
        epsilon=_EPSILON if (epsilon := attribute(norm, "epsilon")) is None else epsilon,
    )
    return True


def _before_bias(graph: EditedGraph, name: str) -> tuple[str, str]:
    """Return a tensor before its constant bias, and the bias; "" where others read it, too."""
    node = graph.made_by(name, "Add")
    if node is None or graph.only_reader(name) is None:
        return name, ""
    tensor, bias = node.input
    if graph.is_vector(tensor):
        tensor, bias = bias, tensor
    return (tensor, bias) if graph.is_bias(bias, tensor) else (name, "")


def replace_bias_gelu(graph: EditedGraph, gelu: Any) -> bool:
    """Replace an exact GELU and the constant bias before it."""
    if attribute(gelu, "approximate") not in (None, b"none"):
        return False
    tensor, bias = _before_bias(graph, gelu.input[0])
    if not bias:
        return False
    name = gelu.name.replace("Gelu", "BiasGelu")
    graph.add("BiasGelu", [tensor, bias], [gelu.output[0]], name=name, domain=DOMAIN)
    return True
