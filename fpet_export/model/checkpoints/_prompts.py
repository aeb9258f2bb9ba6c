"""Prompts of VPT, shallow and deep, and the head that lies beside them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from engines.errors import CheckpointError
from fpet_export.model import state_dicts
from fpet_export.model.backbones._names import some
from fpet_export.model.checkpoints._tuned_file import Shapes
from fpet_export.model.edits import Edit, Tokens
from fpet_export.model.vit_spec import VitSpec

_HEADS = ("head.", "last_layer.", "")
"""What stands before "weight" and "bias" in files of heads, the part that says most first."""


def shapes(spec: VitSpec, shallow: str, deep: str | None, count: int) -> Shapes:
    """Return names and shapes of prompts.

    Args:
        spec: The network.
        shallow: Name of those before the first block.
        deep: Name of those before every later block; None of a run that has none.
        count: Prompts before a block.
    """
    found: Shapes = {shallow: (1, count, spec.width)}
    if deep is not None:
        found[deep] = (spec.depth - 1, count, spec.width)
    return found


def require_place(spec: VitSpec, *, where: str) -> None:
    """Refuse a backbone in which prompts have no known place.

    Raises:
        CheckpointError: It has a norm before its first block.
    """
    if spec.pre_norm:
        raise CheckpointError(
            "the backbone has a norm before its first block; nothing says whether the prompts "
            "pass it",
            where=where,
            fix="give the backbone the run was trained on: --backbone FILE",
        )


def edits(shallow: torch.Tensor, deep: torch.Tensor | None) -> list[Edit]:
    """Return what prompts mean: some that stay, or others in front of every block.

    With deep prompts what the first block makes of its own is replaced, too.

    Args:
        shallow: (1, P, C).
        deep: (depth - 1, P, C), or None.
    """
    if deep is None:
        return [Tokens(vectors=shallow[0])]
    every = torch.cat([shallow, deep])
    return [Tokens(vectors=vectors, block=block) for block, vectors in enumerate(every)]


def read_head(path: Path) -> dict[str, torch.Tensor]:
    """Return the linear head that a file holds, by timm's names.

    Raises:
        CheckpointError: The file holds more than one linear layer, or none.
    """
    anchors = [f"{prefix}weight" for prefix in _HEADS]
    tensors = state_dicts.read(path, anchors).tensors
    named = _called_head(tensors)
    if set(named) != {"head.weight", "head.bias"}:
        raise CheckpointError(
            f"wanted the weight and the bias of one linear layer, found {some(sorted(tensors))}",
            where=str(path),
            fix="save the trained head alone: torch.save({'head.weight': …, 'head.bias': …}, path)",
        )
    return named


def _called_head(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    found = {}
    for name, tensor in tensors.items():
        for prefix in _HEADS:
            if name in (f"{prefix}weight", f"{prefix}bias"):
                found[f"head.{name.removeprefix(prefix)}"] = tensor
                break
        else:
            return {}
    return found if len(found) == len(tensors) else {}
