"""The head average of the keys, by which a merge compares tokens.

They are what queries are compared with: where positions are rotary, after they were turned.
"""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import nn

from fpet_export.graph.frozen_attention import base_of, bias_of, linear
from fpet_export.graph.frozen_gates import gated_rows, gates_of
from fpet_export.model.rotary import turned
from fpet_export.model.vit import Attention


def averaged_key(attention: Attention) -> nn.Module:
    """Return what gives the averaged keys (B, N, D) of normalised tokens (B, N, C).

    It is one layer with averaged weights, unless the heads differ in more than their weights: by a
    norm, by angles of their own, or by a gated update, of which it depends on all of the key
    whether it acts on a token. Then the keys are made whole first.

    Its `forward(x, turn)` takes the sines and cosines of rotary positions, or None.
    """
    qkv = base_of(attention.qkv)
    width = qkv.in_features
    spans = [rows.indices(3 * width) for _, rows in gated_rows(attention.qkv)]
    gated = any(start < 2 * width and stop > width for start, stop, _ in spans)
    if gated or attention.whole_keys:
        return _WholeKeys(attention, gated=gated)
    return _AveragedKey(attention)


class _AveragedKey(nn.Linear):
    """The average as one layer. It is turned as each head is, by the same angles."""

    def __init__(self, attention: Attention) -> None:
        qkv = base_of(attention.qkv)
        width = qkv.in_features
        shape = (attention.heads, width // attention.heads)
        super().__init__(width, shape[1], device="meta")
        weight = qkv.weight[width : 2 * width].double().reshape(*shape, width).mean(dim=0)
        bias = bias_of(qkv)[width : 2 * width].double().reshape(shape).mean(dim=0)
        self.weight = nn.Parameter(weight.float(), requires_grad=False)
        self.bias = nn.Parameter(bias.float(), requires_grad=False)
        self.pairs = attention.pairs

    def forward(self, x: torch.Tensor, turn: torch.Tensor | None = None) -> torch.Tensor:
        """Map normalised tokens (B, N, C) to averaged keys (B, N, D)."""
        keys = super().forward(x)
        if self.pairs is None or turn is None:
            return keys
        return turned(keys[:, None], turn, self.pairs).squeeze(1)


class _WholeKeys(nn.Module):
    """Keys with their gated update, their norm and their angles, averaged over the heads."""

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
        self.pairs = attention.pairs

    @property
    def weight(self) -> torch.Tensor:
        """What tokens are multiplied with."""
        return self.project.weight

    def forward(self, x: torch.Tensor, turn: torch.Tensor | None = None) -> torch.Tensor:
        """Map normalised tokens (B, N, C) to averaged keys (B, N, D)."""
        keys = self.project(x)
        if self.gates is not None:
            keys = self.gates(x, keys)[..., self.keys]
        keys = keys.reshape(*x.shape[:2], self.heads, -1)
        keys = keys if self.norm is None else cast(torch.Tensor, self.norm(keys))
        if self.pairs is None or turn is None:
            return keys.mean(dim=2)
        return turned(keys.transpose(1, 2), turn, self.pairs).mean(dim=1)
