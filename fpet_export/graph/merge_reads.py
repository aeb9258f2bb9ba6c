"""What a frozen merge reads of its block, computed apart from the attention.

The keys stay private to a fused attention kernel; what a merge needs of them is a small product
with weights that are prepared here.
"""

from __future__ import annotations

import torch
from torch import nn

from fpet_export.graph.frozen_attention import base_of, bias_of
from fpet_export.model.mergers import Reads
from fpet_export.model.vit import Block


def reads_of(block: Block) -> Reads:
    """Return what a merge of this folded block may read."""
    return Reads(
        mean_key=lambda: MeanKey(*_mean_key(block)),
        class_attention=lambda: ClassAttention(block),
    )


class MeanKey(nn.Linear):
    """Normalised tokens (B, N, C) to the head average of their keys (B, N, D), in its own type."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        super().__init__(weight.shape[1], weight.shape[0], device="meta")
        self.weight = nn.Parameter(weight.float(), requires_grad=False)
        self.bias = nn.Parameter(bias.float(), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Project."""
        return super().forward(x.to(self.weight.dtype))


class ClassAttention(nn.Module):
    """What the class token attends to, without the keys of the other tokens.

    Its logit of a token x is q (W x + b) = (q W) x + q b, and q b is the same for all tokens, so
    that the softmax does not see it.
    """

    def __init__(self, block: Block) -> None:
        super().__init__()
        attention = block.attn
        qkv, width = base_of(attention.qkv), attention.proj.in_features
        self.heads, self.head_width = attention.heads, width // attention.heads
        scale = self.head_width**-0.5
        weight, bias = qkv.weight.double(), bias_of(qkv).double()
        self.query = _kept(weight[:width].T * scale)
        self.query_bias = _kept(bias[:width] * scale)
        self.key = _kept(weight[width : 2 * width].reshape(self.heads, self.head_width, width))

    def forward(self, x: torch.Tensor, sizes: torch.Tensor | None) -> torch.Tensor:
        """Return (B, N), the mean over heads, for normalised tokens (B, N, C) of these sizes."""
        x = x.to(self.query.dtype)
        query = x[:, :1] @ self.query + self.query_bias
        query = query.reshape(-1, self.heads, 1, self.head_width)
        logits = (query @ self.key).squeeze(2) @ x.transpose(1, 2)
        if sizes is not None:
            logits = logits + sizes.log()[:, None, :]
        return logits.softmax(dim=-1).mean(dim=1)


def _mean_key(block: Block) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the float64 weight (D, C) and bias (D,) of the head average of the keys."""
    attention = block.attn
    qkv = base_of(attention.qkv)
    width = attention.proj.in_features
    shape = (attention.heads, width // attention.heads)
    weight: torch.Tensor = qkv.weight[width : 2 * width].double()
    bias = bias_of(qkv)[width : 2 * width].double()
    return weight.reshape(*shape, width).mean(dim=0), bias.reshape(shape).mean(dim=0)


def _kept(tensor: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(tensor.float().contiguous(), requires_grad=False)
