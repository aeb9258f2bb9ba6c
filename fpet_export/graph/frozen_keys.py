"""The head average of the keys, by which a merge compares tokens."""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import nn

from fpet_export.graph.frozen_attention import base_of, bias_of, linear
from fpet_export.graph.frozen_gates import gated_rows, gates_of
from fpet_export.model.vit import Attention


def averaged_key(attention: Attention) -> nn.Module:
    """Return what gives the averaged keys (B, N, D) of normalised tokens (B, N, C).

    It is one layer with averaged weights, unless a key has a norm, which does not commute with the
    average, or a gated update: whether that acts on a token depends on all of the key. Then the
    keys are made whole first.
    """
    qkv = base_of(attention.qkv)
    width = qkv.in_features
    spans = [rows.indices(3 * width) for _, rows in gated_rows(attention.qkv)]
    gated = any(start < 2 * width and stop > width for start, stop, _ in spans)
    if gated or attention.qk_norm:
        return _WholeKeys(attention, gated=gated)
    shape = (attention.heads, width // attention.heads)
    weight = qkv.weight[width : 2 * width].double()
    bias = bias_of(qkv)
    return linear(
        weight.reshape(*shape, width).mean(dim=0).float(),
        bias[width : 2 * width].double().reshape(shape).mean(dim=0).float(),
    )


class _WholeKeys(nn.Module):
    """Keys with their gated update and their norm, averaged over the heads."""

    def __init__(self, attention: Attention, *, gated: bool) -> None:
        super().__init__()
        base = base_of(attention.qkv)
        bias, width = bias_of(base), base.in_features
        rows = (width, 2 * width)
        self.gates = gates_of(attention.qkv, bias, rows=rows) if gated else None
        if gated and self.gates is None:  # one over query, key and value needs all three
            rows = (0, 3 * width)
            self.gates = gates_of(attention.qkv, bias)
        self.keys = slice(width - rows[0], 2 * width - rows[0])
        self.heads = attention.heads
        self.project = linear(base.weight[slice(*rows)], bias[slice(*rows)])
        # A copy: a merge stays float32 in a module whose attention does not.
        self.norm = copy.deepcopy(attention.k_norm) if attention.qk_norm else None

    @property
    def weight(self) -> torch.Tensor:
        """What tokens are multiplied with."""
        return self.project.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map normalised tokens (B, N, C) to averaged keys (B, N, D)."""
        keys = self.project(x)
        if self.gates is not None:
            keys = self.gates(x, keys)[..., self.keys]
        keys = keys.reshape(*x.shape[:2], self.heads, -1)
        keys = keys if self.norm is None else cast(torch.Tensor, self.norm(keys))
        return keys.mean(dim=2)
