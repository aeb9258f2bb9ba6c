"""Where tokens merge: a plan over the blocks, known before anything runs.

Everything outside the mergers themselves asks the plan, never for one merge block: a merger that
merges in several blocks needs another way to make a plan, and no other change.
"""

from __future__ import annotations

import dataclasses

from engines.errors import UsageError
from fpet_export.model.cost import tokens_after_blocks
from fpet_export.model.mergers import PUBLISHED
from fpet_export.model.vit import VitSpec


@dataclasses.dataclass(frozen=True, kw_only=True)
class MergePlan:
    """The tokens of a network, block by block.

    Attributes:
        before: Tokens that enter the first block.
        tokens: Tokens that leave each block.
        blocks: 0-based blocks after whose attention tokens merge, rising; empty without merging.
    """

    before: int
    tokens: tuple[int, ...]
    blocks: tuple[int, ...]

    @property
    def merges(self) -> bool:
        """Whether any tokens merge."""
        return bool(self.blocks)

    def in_words(self) -> str:
        """Return which blocks merge, such as "6"."""
        return ", ".join(map(str, self.blocks))


def merge_plan(spec: VitSpec, merge_block: int | None, merger: str = PUBLISHED) -> MergePlan:
    """Return the plan of a merger that merges once; None merges nowhere."""
    return MergePlan(
        before=spec.tokens,
        tokens=tokens_after_blocks(spec, merge_block, merger),
        blocks=() if merge_block is None else (merge_block,),
    )


def require_block(block: int, spec: VitSpec, *, where: str) -> None:
    """Refuse a merge block that the network does not have.

    Raises:
        UsageError: It has not.
    """
    if not 0 <= block < spec.depth:
        raise UsageError(
            f"merge block {block} is not one of 0 to {spec.depth - 1}",
            where=where,
            fix="count blocks from 0",
        )
