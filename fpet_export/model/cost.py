"""Tokens and multiply-adds of a ViT, in closed form."""

from __future__ import annotations

from collections.abc import Sequence

from fpet_export.model import methods
from fpet_export.model.mergers import fpet
from fpet_export.model.vit import VitSpec


def tokens_after_blocks(spec: VitSpec, merge_block: int | None) -> tuple[int, ...]:
    """Return the number of tokens that leave each block."""
    merged = spec.tokens if merge_block is None else fpet.tokens_after(spec.grid, len(spec.prefix))
    return tuple(
        merged if merge_block is not None and index >= merge_block else spec.tokens
        for index in range(spec.depth)
    )


def macs(
    spec: VitSpec,
    tokens: Sequence[int],
    *,
    merge_block: int | None = None,
    method: str = "none",
    dim: int | None = None,
) -> list[int]:
    """Return the multiply-adds of one image: patch embedding, each block, head.

    Args:
        spec: The network.
        tokens: Tokens that leave each block. A last block that does not merge and leaves fewer
            tokens computes its queries for those alone.
        merge_block: 0-based block that merges; None finds it where the tokens fall to set B,
            which they do not show when the last block merges and keeps the class token alone.
        method: Tuning method whose layers may stay after folding.
        dim: Rank or bottleneck width of that method.

    Products with the attention matrix and the match of a merge are counted; norms, activations
    and additions are not, as in the literature.
    """
    width, hidden = spec.width, spec.hidden
    merged = fpet.tokens_after(spec.grid, len(spec.prefix)) if spec.patches > 1 else spec.tokens
    costs = [spec.patches * spec.patch[0] * spec.patch[1] * 3 * width]
    now = spec.tokens
    for index, after in enumerate(tokens):
        falls = after == merged < now
        merges = falls if merge_block is None else index == merge_block
        queries = now if merges or index < spec.depth - 1 else after
        attention = 2 * now * width**2 + 2 * queries * width**2 + 2 * queries * now * width
        cost = attention + 2 * after * width * hidden
        if merges:
            cost += _match_macs(spec)
        if method != "none" and dim is not None:
            cost += methods.load(method).macs(spec, dim, after)
        costs.append(cost)
        now = after
    heads = 2 if spec.pool == "class+dist" else 1
    costs.append(heads * width * spec.classes)
    return costs


def _match_macs(spec: VitSpec) -> int:
    """Return what the frozen graph's match and merge take; both run over all tokens."""
    target, head = len(fpet.partition(spec.grid)[1]), spec.head_width
    metric = spec.tokens * (spec.width * head + 2 * head * fpet.REFINEMENT_WIDTH)
    stay = fpet.tokens_after(spec.grid, len(spec.prefix))
    return metric + spec.tokens * target * head + stay * spec.tokens * spec.width
