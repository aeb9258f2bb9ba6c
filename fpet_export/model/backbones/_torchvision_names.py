"""torchvision's names of a ViT, as timm calls the same tensors.

Both compute the same network: a class token, learned positions, blocks that normalise first, exact
GELU, epsilon 1e-6, and a head on the class token. Files of before torchvision 0.12 call the layers
of the MLP `linear_1` and `linear_2`.

Source: torchvision 0.29, `models/vision_transformer.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

from engines.errors import CheckpointError
from fpet_export.model.facts import Fact
from fpet_export.model.vit_spec import VitSpec

ANCHOR = "conv_proj.weight"
"""The tensor that every ViT of torchvision has, and none of timm."""

POOL = Fact("class", "torchvision's code")

_OUTSIDE = {
    "class_token": "cls_token",
    "encoder.pos_embedding": "pos_embed",
    "conv_proj.weight": "patch_embed.proj.weight",
    "conv_proj.bias": "patch_embed.proj.bias",
    "encoder.ln.weight": "norm.weight",
    "encoder.ln.bias": "norm.bias",
    "heads.head.weight": "head.weight",
    "heads.head.bias": "head.bias",
}
_BLOCK = re.compile(r"encoder\.layers\.encoder_layer_(\d{1,4})\.(.+[._])(weight|bias)")
_IN_BLOCK = {
    "ln_1.": "norm1",
    "ln_2.": "norm2",
    "self_attention.in_proj_": "attn.qkv",
    "self_attention.out_proj.": "attn.proj",
    "mlp.0.": "mlp.fc1",
    "mlp.3.": "mlp.fc2",
    "mlp.linear_1.": "mlp.fc1",
    "mlp.linear_2.": "mlp.fc2",
}


def translated(tensors: Mapping[str, torch.Tensor], *, where: str) -> dict[str, torch.Tensor]:
    """Return the tensors by timm's names.

    Raises:
        CheckpointError: A name is missing, is none of a ViT with one linear layer as its head, or
            means the same tensor as another.
    """
    missing = [name for name in _OUTSIDE if name not in tensors and not name.startswith("heads.")]
    if missing:
        raise CheckpointError(
            f"{ANCHOR} is one of torchvision's names of a ViT, but {', '.join(missing)} is missing",
            where=where,
            fix="give the whole model: torch.save(model.state_dict(), path)",
        )
    found: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        own = _name_of(name)
        if own is None or own in found:
            what = "is none of torchvision's ViT" if own is None else f"and another are {own}"
            raise CheckpointError(
                f"{name} {what}",
                where=where,
                fix="a ViT with a linear head is read, as torchvision's vit_b_16(num_classes=…) "
                "makes it; save the model's state_dict()",
            )
        found[own] = tensor
    return found


def require(spec: VitSpec, pool: str | None, *, where: str) -> None:
    """Refuse what torchvision's code never does.

    Args:
        spec: The network that the tensors were taken for.
        pool: What the user says that the head reads, or None.
        where: Whom to name in an error.

    Raises:
        CheckpointError: The head would read the mean over the patches, or the positions would not
            be those of the class token and of a square grid.
    """
    if pool not in (None, "token"):
        raise CheckpointError(
            f"--pool says {pool}, and torchvision's code reads the class token",
            where=where,
            fix="leave --pool out",
        )
    if not spec.position_covers_prefix:
        raise CheckpointError(
            f"encoder.pos_embedding has {spec.patches} rows, which are no square grid and the "
            "class token, as torchvision makes them",
            where=where,
            fix="save the model's state_dict() again",
        )


def _name_of(name: str) -> str | None:
    if name in _OUTSIDE:
        return _OUTSIDE[name]
    block = _BLOCK.fullmatch(name)
    if block is None or block[2] not in _IN_BLOCK:
        return None
    return f"blocks.{int(block[1])}.{_IN_BLOCK[block[2]]}.{block[3]}"
