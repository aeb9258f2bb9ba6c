"""ONNX Runtime's operators in numpy, after docs/ContribOperators.md, for onnx's own evaluator.

ONNX Runtime runs the packed attention on GPUs only; this says what it has to compute.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

Array = np.ndarray
_erf = np.vectorize(math.erf)


class MultiHeadAttention(OpRun):
    """Packed (B, N, H, 3, D), or queries (B, S, C) and (B, N, H, 2, D), or three of (B, N, C)."""

    op_domain = "com.microsoft"

    def _run(
        self,
        query: Array,
        key: Array | None = None,
        value: Array | None = None,
        bias: Array | None = None,
        mask: Array | None = None,
        attention_bias: Array | None = None,
        num_heads: int = 0,
        scale: float = 0.0,
    ) -> tuple[Array]:
        assert mask is None
        if key is None:
            batch, tokens, heads, _, width = query.shape
            if bias is not None:
                query = query + bias.reshape(3, heads, width).transpose(1, 0, 2)
            parts = [query[:, :, :, part] for part in range(3)]
        else:
            assert bias is None  # refused by the operator for packed keys and values
            batch, tokens, _ = query.shape
            heads = num_heads
            pair = [key[:, :, :, 0], key[:, :, :, 1]] if value is None else [key, value]
            parts = [part.reshape(batch, part.shape[1], heads, -1) for part in (query, *pair)]
        assert heads == num_heads and scale
        q, k, v = (part.transpose(0, 2, 1, 3) for part in parts)
        scores = q @ k.transpose(0, 1, 3, 2) * scale
        if attention_bias is not None:
            assert attention_bias.shape[2:] == scores.shape[2:]  # it repeats no query
            scores = scores + attention_bias
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        mixed = (weights @ v).transpose(0, 2, 1, 3).reshape(batch, tokens, -1)
        return (mixed.astype(query.dtype),)


class SkipLayerNormalization(OpRun):
    """LayerNormalization of a sum; its fourth output is the sum."""

    op_domain = "com.microsoft"

    def _run(
        self,
        branch: Array,
        skip: Array,
        gamma: Array,
        beta: Array,
        bias: Array | None = None,
        epsilon: float = 0.0,
    ) -> tuple[Array, ...]:
        assert branch.shape == skip.shape
        total = branch + skip if bias is None else branch + skip + bias
        centred = total - total.mean(axis=-1, keepdims=True)
        deviation = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + epsilon)
        nothing = np.zeros(0, np.float32)
        normalised = (centred / deviation * gamma + beta).astype(branch.dtype)
        return normalised, nothing, nothing, total.astype(branch.dtype)


class BiasGelu(OpRun):
    """The exact GELU of a sum."""

    op_domain = "com.microsoft"

    def _run(self, x: Array, bias: Array) -> tuple[Array]:
        total = x + bias
        return ((total * 0.5 * (1 + _erf(total / np.sqrt(2)))).astype(x.dtype),)


class SimplifiedLayerNormalization(OpRun):
    """Division by the root of the mean of the squares; ONNX Runtime keeps it in ONNX's domain."""

    op_domain = ""

    def _run(
        self, x: Array, scale: Array, axis: int = 0, epsilon: float = 0.0, stash_type: int = 0
    ) -> tuple[Array]:
        assert axis == -1
        length = np.sqrt((x**2).mean(axis=-1, keepdims=True) + epsilon)
        return ((x / length * scale).astype(x.dtype),)


def evaluate(model: Any, feeds: dict[str, Array]) -> Array:
    """Return the first output of a graph with these operators."""
    operators = [
        MultiHeadAttention,
        SkipLayerNormalization,
        BiasGelu,
        SimplifiedLayerNormalization,
    ]
    for count, node in enumerate(model.graph.node):
        for place, name in enumerate(node.output):
            if not name:  # onnx's evaluator takes it for the name of inputs that are left out
                node.output[place] = f"unused {count} {place}"
    outputs: Any = ReferenceEvaluator(model, new_ops=operators).run(None, feeds)
    found: Array = outputs[0]
    return found
