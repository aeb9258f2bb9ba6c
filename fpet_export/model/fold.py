"""Adapted model to folded model: what is linear moves into the base weights."""

from __future__ import annotations

import copy

from fpet_export.model import methods
from fpet_export.model.vit import Vit


def fold(model: Vit, method: str) -> tuple[Vit, list[str]]:
    """Return a folded copy of `model`, and the adapter layers that had to stay.

    Weights that do not change are shared with `model`, which is left as it is.

    Args:
        model: The adapted model.
        method: Name of the method that is attached, or "none".

    Returns:
        The folded model; module paths such as "blocks.0.adapter_mlp", empty when all folded.
    """
    folded = _shallow_copy(model)
    if method == "none":
        return folded, []
    entry = methods.load(method)
    stay = [
        f"blocks.{index}.{name}"
        for index, block in enumerate(folded.each_block())
        for name in entry.fold(block)
    ]
    return folded, stay


def _shallow_copy(model: Vit) -> Vit:
    """Copy the modules of `model` but none of its tensors."""
    memo = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, memo)
