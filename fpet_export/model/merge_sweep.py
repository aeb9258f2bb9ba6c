"""What a network answers when its tokens merge in one way or another, all in one pass.

Up to the block in which they differ, two ways compute the same: it is computed once for both. A
sweep of one merge over the blocks of a ViT costs about four forward passes instead of one a block.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar, cast

import torch
from torch import nn

from fpet_export.model.mergers import MergingModule
from fpet_export.model.rotary import Turns
from fpet_export.model.vit import Vit, turns_after

W = TypeVar("W")


def answers_by_merge(
    model: Vit, ways: Mapping[W, nn.ModuleDict], images: torch.Tensor
) -> dict[W, torch.Tensor]:
    """Return the logits (B, K) of every way to merge.

    Args:
        model: Any; its own merges do not matter.
        ways: Each with the merges of its blocks, as `Vit.merges` has them.
        images: (B, 3, height, width), normalised.
    """
    blocks, found = model.each_block(), {}

    def walk(
        index: int,
        x: torch.Tensor,
        size: torch.Tensor | None,
        turns: Turns | None,
        names: Sequence[W],
    ) -> None:
        if index == len(blocks):
            found.update(dict.fromkeys(names, model.classify(x, size)))
            return
        for merger, alike in _by_merger(ways, index, names):
            out, merged = blocks[index](x, size, merger, turns and turns.of(index))
            after = turns_after(turns, merger, merged)
            walk(index + 1, out, size if merged is None else merged.size, after, alike)

    walk(0, model.embed(images), None, model.turns(), list(ways))
    return found


def _by_merger(
    ways: Mapping[W, nn.ModuleDict], index: int, names: Sequence[W]
) -> list[tuple[MergingModule | None, list[W]]]:
    """Return the different merges of a block, and the ways that have each."""
    groups: dict[object, tuple[MergingModule | None, list[W]]] = {}
    for name in names:
        merges = ways[name]
        merger = cast(MergingModule, merges[str(index)]) if str(index) in merges else None
        same = None if merger is None else (type(merger), merger.step)
        groups.setdefault(same, (merger, []))[1].append(name)
    return list(groups.values())
