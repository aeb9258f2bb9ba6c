"""What a network answers when its tokens merge after one block or another, all in one pass.

Up to the block that merges, every candidate computes the same: the tokens that enter it are
computed once for all. A sweep over the blocks of a ViT costs about four forward passes instead of
one a block.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from fpet_export.model.mergers import MergingModule
from fpet_export.model.vit import Vit


def answers_by_block(
    model: Vit, mergers: Mapping[int, MergingModule], images: torch.Tensor
) -> dict[int | None, torch.Tensor]:
    """Return the logits (B, K) without merging, under None, and of every block that may merge.

    Args:
        model: Any; its own merger does not matter.
        mergers: The merge of each 0-based block that is asked about.
        images: (B, 3, height, width), normalised.
    """
    blocks = model.each_block()
    found: dict[int | None, torch.Tensor] = {}
    x = model.embed(images)
    for index, block in enumerate(blocks):
        if index in mergers:
            merged, size = block(x, None, mergers[index], None)
            for later in blocks[index + 1 :]:
                merged, size = later(merged, size)
            found[index] = model.classify(merged, size)
        x, _ = block(x)
    found[None] = model.classify(x, None)
    return found
