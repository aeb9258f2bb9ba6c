"""Adapted model to folded model: what is linear moves into the base weights."""

from __future__ import annotations

import copy
from typing import cast

from fpet_export.model.attached import edited_layers, replace_module
from fpet_export.model.kept import BranchModule
from fpet_export.model.vit import PROMPTS, Block, PatchEmbed, Vit


def fold(model: Vit) -> tuple[Vit, list[str]]:
    """Return a folded copy of `model`, and what a fine-tune added that had to stay.

    Weights that do not change are shared with `model`, which is left as it is.

    Args:
        model: The adapted model.

    Returns:
        The folded model; paths such as "blocks.0.adapter_mlp" and "blocks.0.prompts", empty when
        all folded.

    Raises:
        FoldError: A folded weight is not finite.
    """
    folded = _shallow_copy(model)
    stay: list[str] = []
    for path, layer in edited_layers(folded):
        replace_module(folded, path, layer.fold())
        stay += [edit.site for edit, _ in layer.kept()]
    stay += [PROMPTS] if folded.spec.prompts else []
    stay += _fold_branches(folded.patch_embed, "patch_embed")
    for index, block in enumerate(folded.each_block()):
        if block.prompts is not None:
            stay.append(f"blocks.{index}.prompts")
        stay += _fold_branches(block, f"blocks.{index}")
    return folded, stay


def _fold_branches(owner: PatchEmbed | Block, path: str) -> list[str]:
    """Fold the branches of a part of the network, in place; return where they are."""
    for name, branch in owner.branches.items():
        owner.branches[name] = cast(BranchModule, branch).folded()
    return [f"{path}.{name}" for name in owner.branches]


def _shallow_copy(model: Vit) -> Vit:
    """Copy the modules of `model` but none of its tensors."""
    memo = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, memo)
