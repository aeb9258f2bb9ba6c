"""Where tokens merge: a plan over the blocks, known before anything runs.

Everything outside the mergers themselves asks the plan, never for one merge block.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable

from engines import registry
from engines.errors import UsageError
from engines.manifest import MergeStep
from fpet_export.model import mergers
from fpet_export.model.mergers import PUBLISHED, TokenMerger
from fpet_export.model.vit_spec import VitSpec

NOWHERE = "none"
"""What asks for no merging."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MergePlan:
    """The tokens of a network, block by block.

    Attributes:
        asked: What the plan was made of: "none", or what a merger reads, such as "fpet@6".
        before: Tokens that enter the first block.
        tokens: Tokens that leave each block.
        steps: What the blocks do that merge, in order; empty without merging.
    """

    asked: str
    before: int
    tokens: tuple[int, ...]
    steps: tuple[MergeStep, ...]

    @property
    def merges(self) -> bool:
        """Whether any tokens merge."""
        return bool(self.steps)

    @property
    def loses(self) -> bool:
        """Whether any tokens are lost."""
        return any(step.pruned for step in self.steps)

    @property
    def counts_patches(self) -> bool:
        """Whether tokens merge, and their sizes sum to all patches and prefix tokens."""
        return self.merges and all(step.whole for step in self.steps)

    @property
    def merger(self) -> str:
        """Name of the merger, whether it merges or not."""
        return merger_of(self.asked)

    def in_words(self) -> str:
        """Return which blocks merge, such as "block 6" or "blocks 0 to 10"."""
        return blocks_in_words([step.block for step in self.steps])


def merge_plan(spec: VitSpec, asked: str) -> MergePlan:
    """Return the plan of what is asked for, such as "none", "fpet@6" or "tome:r=8".

    Raises:
        UsageError: There is no such merger, or the network lacks what it asks for.
        InputError: See `fpet_export.model.mergers.TokenMerger.steps`.
    """
    steps: tuple[MergeStep, ...] = ()
    if asked != NOWHERE:
        steps = _merger(asked).steps(spec, asked)
    after = {step.block: step.after for step in steps}
    tokens, now = [], spec.tokens
    for block in range(spec.depth):
        now = after.get(block, now)
        tokens.append(now)
    return MergePlan(asked=asked, before=spec.tokens, tokens=tuple(tokens), steps=steps)


def blocks_in_words(blocks: Iterable[int]) -> str:
    """Return rising blocks such as "block 6", "blocks 3, 5" or "blocks 0 to 10"."""
    found = list(blocks)
    if len(found) == 1:
        return f"block {found[0]}"
    if len(found) > 2 and found == list(range(found[0], found[-1] + 1)):
        return f"blocks {found[0]} to {found[-1]}"
    return f"blocks {', '.join(map(str, found))}"


def merger_of(asked: str) -> str:
    """Return the name of the merger that reads "fpet@6" or "tome:r=8"."""
    return PUBLISHED if asked == NOWHERE else re.split("[@:]", asked, maxsplit=1)[0]


def settled(asked: str) -> str:
    """Return what is asked for without any file that it names, for a manifest.

    Raises:
        UsageError: A part of the file must be named.
        InputError: The file cannot be read.
    """
    return asked if asked == NOWHERE else _merger(asked).settled(asked)


def _merger(asked: str) -> TokenMerger:
    name = merger_of(asked) if isinstance(asked, str) else ""
    if name not in registry.available(mergers):
        raise UsageError(
            f"{asked!r} names no merger",
            where="merge",
            fix="write none, fpet@6, tome:r=8 or diffrate:FILE; only `export` and `deploy` search "
            "(auto)",
        )
    return mergers.load(name)


def at_block(block: int | None) -> str:
    """Return what asks for the published merge after the attention of a 0-based block."""
    return NOWHERE if block is None else f"{PUBLISHED}@{block}"


def block_of(asked: str) -> int | None:
    """Return the block of `at_block`; None without merging, and of any other merger."""
    name, at, block = asked.partition("@")
    return int(block) if at and name == PUBLISHED else None


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
