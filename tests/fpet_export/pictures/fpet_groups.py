"""The groups of a match of FPET on any grid."""

from __future__ import annotations

import numpy as np

from engines.manifest import MergeStep, ModelFacts
from fpet_export.pictures.merge_groups import MergeGroups, groups_by_block

BLOCK = 6


def model_facts(grid: tuple[int, int], merge: str, *merges: MergeStep) -> ModelFacts:
    """Return what a manifest says of a network with a class token that merges so."""
    return ModelFacts(
        architecture="tiny",
        width=64,
        depth=12,
        heads=2,
        hidden=256,
        patch=(8, 8),
        grid=grid,
        prefix_tokens=1,
        classes=10,
        method="none",
        bit=None,
        dim=None,
        scale=None,
        merge=merge,
        merges=merges,
        ties="argmax",
        tokens=(1,) * 12,
        macs=1,
    )


def fpet_groups(match: np.ndarray, grid: tuple[int, int]) -> MergeGroups:
    """Return the groups of the match of one image."""
    count = len(match)
    step = MergeStep(block=BLOCK, before=1 + grid[0] * grid[1], merged=count, sources=count)
    return groups_by_block(match, model_facts(grid, f"fpet@{BLOCK}", step))[BLOCK]
