"""Tokens and multiply-adds of a ViT, in closed form."""

from __future__ import annotations

from collections.abc import Sequence

from fpet_export.model import mergers
from fpet_export.model.kept import Extra
from fpet_export.model.vit import VitSpec


def tokens_after_blocks(
    spec: VitSpec, merge_block: int | None, merger: str = mergers.PUBLISHED
) -> tuple[int, ...]:
    """Return the number of tokens that leave each block."""
    merged = spec.tokens if merge_block is None else mergers.load(merger).tokens_after(spec)
    return tuple(
        merged if merge_block is not None and index >= merge_block else spec.tokens
        for index in range(spec.depth)
    )


def macs(
    spec: VitSpec,
    tokens: Sequence[int],
    *,
    merge_block: int | None = None,
    merger: str = mergers.PUBLISHED,
    added: Sequence[Extra] = (),
) -> list[int]:
    """Return the multiply-adds of one image: patch embedding, each block, head.

    Args:
        spec: The network.
        tokens: Tokens that leave each block. A last block that does not merge and leaves fewer
            tokens computes its queries for those alone.
        merge_block: 0-based block that merges; None finds it where the tokens fall to set B,
            which they do not show when the last block merges and keeps the class token alone.
        merger: Name of the merger.
        added: What a fine-tune left in each block; empty for nothing.

    Products with the attention matrix and the match of a merge are counted; norms, activations
    and additions are not, as in the literature.
    """
    width, hidden = spec.width, spec.hidden
    entry = mergers.load(merger)
    merged = entry.tokens_after(spec) if spec.patches > 1 else spec.tokens
    costs = [spec.patches * spec.patch[0] * spec.patch[1] * 3 * width]
    now = spec.tokens
    for index, after in enumerate(tokens):
        falls = after == merged < now
        merges = falls if merge_block is None else index == merge_block
        queries = now if merges or index < spec.depth - 1 else after
        attention = 2 * now * width**2 + 2 * queries * width**2 + 2 * queries * now * width
        cost = attention + 2 * after * width * hidden
        if merges:
            cost += entry.macs(spec)
        if added:
            extra = added[index]
            cost += extra.keys * now + extra.queries * queries + extra.outputs * after
        costs.append(cost)
        now = after
    heads = 2 if spec.pool == "class+dist" else 1
    costs.append(heads * spec.features * spec.classes)
    return costs
