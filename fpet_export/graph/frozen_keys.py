"""The head average of the keys, by which a merge compares tokens."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from fpet_export.graph.frozen_attention import base_of, bias_of, linear
from fpet_export.graph.frozen_gates import gates_of, kept_of
from fpet_export.model.vit import Attention


def averaged_key(attention: Attention) -> nn.Module:
    """Return what gives the averaged keys (B, N, D) of normalised tokens (B, N, C).

    It is one layer with averaged weights, unless a key has a gated update: whether that acts on a
    token depends on all of the key, so that the key is made whole first.
    """
    qkv = base_of(attention.qkv)
    width = qkv.in_features
    for _, rows in kept_of(attention.qkv):
        start, stop, _ = rows.indices(3 * width)
        if start < 2 * width and stop > width:
            return _GatedKeys(attention)
    shape = (attention.heads, width // attention.heads)
    weight = qkv.weight[width : 2 * width].double()
    bias = bias_of(qkv)
    return linear(
        weight.reshape(*shape, width).mean(dim=0).float(),
        bias[width : 2 * width].double().reshape(shape).mean(dim=0).float(),
    )


class _GatedKeys(nn.Module):
    """Keys with their gated update, averaged over the heads."""

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        base = base_of(attention.qkv)
        bias, width = bias_of(base), base.in_features
        one = gates_of(attention.qkv, bias, rows=(width, 2 * width))
        # A gate over query, key and value needs all three.
        rows = (0, 3 * width) if one is None else (width, 2 * width)
        self.keys = slice(width - rows[0], 2 * width - rows[0])
        self.heads = attention.heads
        self.project = linear(base.weight[slice(*rows)], bias[slice(*rows)])
        self.gates = one or gates_of(attention.qkv, bias)

    @property
    def weight(self) -> torch.Tensor:
        """What tokens are multiplied with."""
        return self.project.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map normalised tokens (B, N, C) to averaged keys (B, N, D)."""
        keys = cast(nn.Module, self.gates)(x, self.project(x))[..., self.keys]
        return cast(torch.Tensor, keys.reshape(*x.shape[:2], self.heads, -1).mean(dim=2))
