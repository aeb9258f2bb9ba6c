"""What all mergers are made of: tokens that share a slot become one token, in one product.

The product goes over all tokens: those that stay have a slot of their own. So nothing is cut out of
the residual stream and nothing is put together again, which would each be a kernel on a GPU. Where
the tokens that leave are wanted in another order, only a constant changes.
"""

from __future__ import annotations

import torch
from torch import nn

NORM_EPSILON = 1e-12
"""Smallest squared norm that is divided by: far below any real key, above zero."""


def normalise(metric: torch.Tensor) -> torch.Tensor:
    """Scale (…, D) to unit length."""
    # clamp, not an addition: PyTorch's exporter drops `x + 1e-12` as adding nothing.
    squared = (metric * metric).sum(dim=-1, keepdim=True).clamp(min=NORM_EPSILON)
    return metric / squared.sqrt()


def in_type_of(x: torch.Tensor, module: nn.Module) -> torch.Tensor:
    """Return what a module reads in the type of its weights: a match is found in float32."""
    return x.to(next(module.parameters()).dtype)


def slots_of(prefix: int, patches: int, leave: torch.Tensor | None) -> torch.Tensor:
    """Return (N',) the slots in the order in which tokens leave: the prefix, then `leave`."""
    slots = torch.arange(prefix + patches)
    return slots if leave is None else torch.cat([slots[:prefix], prefix + leave])


def chosen_by(slot: torch.Tensor, stay: torch.Tensor) -> torch.Tensor:
    """Return (B, N', N) one where a token's slot (B, N) is that of a token that leaves (N',)."""
    return (slot[:, None, :] == stay[:, None]).float()


def averaged(
    tokens: torch.Tensor, chosen: torch.Tensor, sizes: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Average tokens that share a slot, weighted by their sizes.

    Args:
        tokens: (B, N, C).
        chosen: (B, N', N) float32 of `chosen_by`.
        sizes: (B, N) float32, or None while all are one.

    Returns:
        Tokens (B, N', C) and their sizes (B, N') in float32.
    """
    if sizes is None:
        size = chosen.sum(dim=-1)
        mixed = chosen.to(tokens.dtype) @ tokens
        return mixed / size.to(tokens.dtype).unsqueeze(-1), size
    weight = chosen * sizes[:, None, :]
    size = weight.sum(dim=-1)
    # Divided before the product: sums of many tokens leave the range of half precision.
    return (weight / size.unsqueeze(-1)).to(tokens.dtype) @ tokens, size


def won_by(scores: torch.Tensor) -> torch.Tensor:
    """Return (…,) by how much the best of (…, Nb) scores is above the second best."""
    if scores.shape[-1] == 1:
        return torch.full_like(scores[..., 0], torch.inf)
    best = scores.topk(2, dim=-1).values
    return best[..., 0] - best[..., 1]


def ranks(scores: torch.Tensor) -> torch.Tensor:
    """Return (B, N) how many of the (B, N) scores come before each one, the largest first.

    Of equal ones the first comes first. Written by comparison: a sort is slow on a GPU for so few
    numbers, and no runtime fuses it.
    """
    index = torch.arange(scores.shape[-1], device=scores.device)
    mine, other = scores[:, :, None], scores[:, None, :]
    before = (other > mine) | ((other == mine) & (index[None, :] < index[:, None]))
    return before.float().sum(dim=-1)
