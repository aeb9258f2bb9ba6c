"""What a frozen merge reads of its block, computed apart from the attention.

The keys stay private to a fused attention kernel; what a merge needs of them is a small product
with weights that are prepared here.
"""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import nn

from engines.errors import UsageError
from fpet_export.graph.frozen_attention import base_of, bias_of, linear
from fpet_export.graph.frozen_gates import gated_rows
from fpet_export.graph.frozen_keys import averaged_key
from fpet_export.model.mergers import Reads
from fpet_export.model.rotary import turned
from fpet_export.model.vit import Attention


def reads_of(attention: Attention) -> Reads:
    """Return what a merge may read of a block with this folded attention."""
    return Reads(
        mean_key=lambda: averaged_key(attention),
        class_attention=lambda: _class_attention(attention),
    )


def _class_attention(attention: Attention) -> nn.Module:
    """Return what gives the attention of the class token.

    Raises:
        UsageError: A query or a key has a gated update, which is not linear.
    """
    width = base_of(attention.qkv).in_features
    if any(rows.indices(3 * width)[0] < 2 * width for _, rows in gated_rows(attention.qkv)):
        raise UsageError(
            "queries or keys have a gated update, of which the importance of a token is not "
            "computed",
            where="--merge diffrate",
            fix="merge with --merge fpet@6 or --merge tome:r=8",
        )
    if attention.qk_norm or attention.pairs is not None:
        return KeyedClassAttention(attention)
    return ClassAttention(attention)


class ClassAttention(nn.Module):
    """What the class token attends to, without the keys of the other tokens.

    Its logit of a token x is q (W x + b) = (q W) x + q b, and q b is the same for all tokens, so
    that the softmax does not see it.
    """

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        qkv = base_of(attention.qkv)
        width = qkv.in_features
        self.heads, self.head_width = attention.heads, width // attention.heads
        scale = self.head_width**-0.5
        weight, bias = qkv.weight.double(), bias_of(qkv).double()
        self.query = _kept(weight[:width].T * scale)
        self.query_bias = _kept(bias[:width] * scale)
        self.key = _kept(weight[width : 2 * width].reshape(self.heads, self.head_width, width))

    def forward(
        self, x: torch.Tensor, sizes: torch.Tensor | None, turn: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return (B, N), see `Attended.of_class_token`, for normalised tokens (B, N, C)."""
        query = x[:, :1] @ self.query + self.query_bias
        query = query.reshape(-1, self.heads, 1, self.head_width)
        logits = (query @ self.key).squeeze(2) @ x.transpose(1, 2)
        if sizes is not None:
            logits = logits + sizes.log()[:, None, :]
        return logits.log_softmax(dim=-1).logsumexp(dim=1)


class KeyedClassAttention(nn.Module):
    """The same where queries and keys have a norm or are turned: then the keys are computed.

    The class token has no position, so that its query is not turned.
    """

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        qkv = base_of(attention.qkv)
        width = qkv.in_features
        weight, bias = qkv.weight, bias_of(qkv)
        self.query = linear(weight[:width], bias[:width])
        self.key = linear(weight[width : 2 * width], bias[width : 2 * width])
        # Copies: a merge stays float32 in a module whose attention does not.
        self.q_norm = copy.deepcopy(attention.q_norm) if attention.qk_norm else nn.Identity()
        self.k_norm = copy.deepcopy(attention.k_norm) if attention.qk_norm else nn.Identity()
        self.heads, self.scale = attention.heads, (width // attention.heads) ** -0.5
        self.pairs = attention.pairs

    def forward(
        self, x: torch.Tensor, sizes: torch.Tensor | None, turn: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return (B, N), see `Attended.of_class_token`, for normalised tokens (B, N, C)."""
        query, keys = (
            norm(layer(part).reshape(len(part), part.shape[1], self.heads, -1)).transpose(1, 2)
            for norm, layer, part in (
                (self.q_norm, self.query, x[:, :1]),
                (self.k_norm, self.key, x),
            )
        )
        if self.pairs is not None and turn is not None:
            keys = turned(keys, turn, self.pairs)
        logits = ((query * self.scale) @ keys.transpose(-2, -1)).squeeze(2)
        if sizes is not None:
            logits = logits + sizes.log()[:, None, :]
        return cast(torch.Tensor, logits.log_softmax(dim=-1).logsumexp(dim=1))


def _kept(tensor: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(tensor.float().contiguous(), requires_grad=False)
