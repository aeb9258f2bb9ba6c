"""Multiply-adds of a ViT, in closed form."""

from __future__ import annotations

from collections.abc import Sequence

from engines.targets import tiled_rows
from fpet_export.model import mergers
from fpet_export.model.kept import Extra
from fpet_export.model.merge_plan import MergePlan
from fpet_export.model.vit_spec import VitSpec


def macs(
    spec: VitSpec,
    plan: MergePlan,
    *,
    last: int | None = None,
    added: Sequence[Extra] = (),
    tile: int = 1,
    batch: int = 1,
) -> list[int]:
    """Return the multiply-adds of one image: patch embedding, each block, head.

    Args:
        spec: The network.
        plan: Where tokens merge.
        last: Tokens that the last block computes, where it computes only those that the head
            reads; None for all. If it does not merge, it computes their queries alone.
        added: What a fine-tune left beside the patch embedding, whose outputs are the patches, and
            in each block; empty for nothing.
        tile: Count the linears by whole tiles of so many rows, as a GPU computes them; 1 counts
            tokens.
        batch: Images whose tokens share the tiles.

    Products with the attention matrix and the match of a merge are counted; norms, activations
    and additions are not, as in the literature.
    """
    width = spec.width
    mlp = (3 if spec.gated else 2) * width * spec.hidden
    entry, steps = mergers.load(plan.merger), {step.block: step for step in plan.steps}

    def rows(tokens: int) -> int:
        return tiled_rows(tokens * batch, tile) // batch

    costs = [rows(spec.patches) * spec.patch[0] * spec.patch[1] * 3 * width]
    if added:
        costs[0] += added[0].outputs * spec.patches
    now = plan.before
    for block, after in enumerate(plan.tokens):
        if last is not None and block == spec.depth - 1:
            after = last
        queries = now if block in steps else min(now, after)
        attention = 2 * (rows(now) + rows(queries)) * width**2 + 2 * queries * now * width
        cost = attention + rows(after) * mlp
        if block in steps:
            cost += entry.macs(spec, steps[block])
        if added:
            extra = added[block + 1]
            cost += extra.keys * now + extra.queries * queries + extra.outputs * after
        costs.append(cost)
        now = after
    heads = 2 if spec.pool == "class+dist" else 1
    pooling = 0
    if spec.pool == "attention":  # its query is a constant
        patches = now - len(spec.prefix)
        pooling = 2 * rows(patches) * width**2 + 2 * patches * width + width**2 + mlp
    if spec.head == "tokens":  # each patch is given its token back
        pooling = sum(step.before * step.after * width for step in plan.steps)
    costs.append(pooling + heads * spec.features * spec.classes)
    return costs
