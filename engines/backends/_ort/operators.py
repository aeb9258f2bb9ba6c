"""ONNX Runtime's own operators in place of primitive ones, before its CUDA provider gets a graph.

That provider runs what it is given node by node. ONNX Runtime's own fusions do not find the
attention of this toolkit's graphs, so it is replaced here. Each module of `rewrites/` replaces one
pattern:

| module | what becomes one operator |
|---|---|
| `attention` | the two products and the softmax of an attention: `MultiHeadAttention` |
| `residual` | a sum and its norm: `SkipLayerNormalization`; a bias and its GELU: `BiasGelu` |
| `patches` | the convolution that embeds patches: a product |
| `unit_length` | the division of keys by their length: `SimplifiedLayerNormalization` |

Each is exact up to rounding. Operators: ONNX Runtime, docs/ContribOperators.md.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engines.backends._ort.rewrites.attention import replace_attention
from engines.backends._ort.rewrites.graph import EditedGraph
from engines.backends._ort.rewrites.patches import replace_patch_embedding
from engines.backends._ort.rewrites.residual import replace_bias_gelu, replace_skip_norm
from engines.backends._ort.rewrites.unit_length import replace_unit_length
from engines.registry import import_or_explain

_IN_BLOCK = re.compile(r"blocks/(\d+)/")
_LARGE_BYTES = 1_900_000_000  # a protobuf message holds 2 GiB


@dataclasses.dataclass(frozen=True, kw_only=True)
class Replaced:
    """How many of each were replaced.

    Attributes:
        attentions: Attentions that are one operator now.
        attentions_left: Softmax operators that stay, because what is around them is unknown.
        skip_norms: Sums with the LayerNormalization behind them.
        bias_gelus: GELUs with the bias before them.
        patch_products: Convolutions that are a product now.
        unit_lengths: Divisions by a vector's own length.
    """

    attentions: int = 0
    attentions_left: int = 0
    skip_norms: int = 0
    bias_gelus: int = 0
    patch_products: int = 0
    unit_lengths: int = 0

    def facts(self) -> dict[str, str]:
        """Return what is recorded of them beside an engine."""
        whole = self.attentions + self.attentions_left
        return {
            "fused_attentions": f"{self.attentions} of {whole}",
            "fused_skip_norms": str(self.skip_norms),
            "fused_bias_gelus": str(self.bias_gelus),
            "patch_embedding": "product" if self.patch_products else "convolution",
        }


def with_contrib_operators(path: Path, folder: Path) -> tuple[Path, Replaced]:
    """Write a graph with ONNX Runtime's operators in place of primitive ones.

    Args:
        path: The graph, which stays as it is; weights beside it are read, too.
        folder: Where the new one goes.

    Returns:
        The new graph, with large weights beside it, and what was replaced.

    Raises:
        MissingDependencyError: The package onnx is not installed.
    """
    onnx: Any = import_or_explain("onnx")
    model = onnx.load(path)
    replaced = use_contrib_operators(model)
    out = folder / path.name
    large = sum(len(tensor.raw_data) for tensor in model.graph.initializer) > _LARGE_BYTES
    onnx.save(model, out, save_as_external_data=large, location=f"{out.name}.data")
    return out, replaced


def count_operators(path: Path) -> dict[str, str]:
    """Return what is recorded of the operators that ONNX Runtime left in a graph.

    Those of a block are counted by the names of nodes, which begin with `blocks/<index>/`.
    """
    onnx: Any = import_or_explain("onnx")
    nodes = onnx.load(path, load_external_data=False).graph.node
    blocks = Counter(found.group(1) for node in nodes if (found := _IN_BLOCK.match(node.name)))
    kinds = Counter(node.op_type for node in nodes)
    return {
        "operators": str(len(nodes)),
        "operators_per_block": " ".join(str(blocks[block]) for block in sorted(blocks, key=int)),
        "operator_types": ", ".join(f"{kind} {count}" for kind, count in kinds.most_common()),
    }


def use_contrib_operators(model: Any) -> Replaced:
    """Replace what has an operator of ONNX Runtime's, in place.

    Args:
        model: An `onnx.ModelProto` with its weights, whose shapes are inferred.
    """
    if any(attribute.HasField("g") for node in model.graph.node for attribute in node.attribute):
        return Replaced()  # what the branches of an If read is not known here
    graph = EditedGraph(model)
    softmaxes = [node for node in model.graph.node if node.op_type == "Softmax"]
    attentions = sum(replace_attention(graph, node) for node in softmaxes)

    def replaced(operator: str, replace: Callable[[EditedGraph, Any], bool]) -> int:
        nodes = [node for node in model.graph.node if node.op_type == operator]
        return sum(replace(graph, node) for node in nodes)

    counts = Replaced(
        attentions=attentions,
        attentions_left=len(softmaxes) - attentions,
        skip_norms=replaced("LayerNormalization", replace_skip_norm),
        bias_gelus=replaced("Gelu", replace_bias_gelu),
        patch_products=replaced("Conv", replace_patch_embedding),
        unit_lengths=replaced("Div", replace_unit_length),
    )
    graph.finish()
    return counts
