"""Query, key and value that a file holds apart, one under the other as timm has them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch

from engines.errors import CheckpointError


def joined(
    tensors: Mapping[str, torch.Tensor], parts: Sequence[str], *, where: str
) -> dict[str, torch.Tensor]:
    """Return tensors in which those of `attn.qkv.PART.KIND` are one `attn.qkv.KIND`.

    Args:
        tensors: By timm's names, but for these.
        parts: What the file calls query, key and value.
        where: Whom to name in an error.

    Raises:
        CheckpointError: One of the three is missing, they do not fit each other, or they are there
            in one, too.
    """
    third = re.compile(rf"^(blocks\.\d+\.attn\.qkv)\.({'|'.join(parts)})\.(weight|bias)$")
    found: dict[str, torch.Tensor] = {}
    thirds: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        fits = third.match(name)
        if fits:
            thirds.setdefault(f"{fits[1]}.{fits[3]}", {})[fits[2]] = tensor
        else:
            found[name] = tensor
    for name, own in thirds.items():
        shapes = {tuple(tensor.shape) for tensor in own.values()}
        if set(own) != set(parts) or len(shapes) != 1 or name in found:
            listed = ", ".join(f"{part} {tuple(t.shape)}" for part, t in sorted(own.items()))
            raise CheckpointError(
                f"{name} is made of {', '.join(parts)} of one shape; found {listed}",
                where=where,
                fix="give the file that the run's training wrote",
            )
        found[name] = torch.cat([own[part] for part in parts])
    return found
