"""Names of timm's EVA family (EVA, EVA-02, DINOv3, RoPE-ViT) as its plain ViTs call the same.

Its layer scales are `gamma_1` and `gamma_2`. Queries and values have a bias and keys none: it lies
beside the projection (`q_bias`, `v_bias`), or the three are layers of their own (`q_proj`, …).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch

_SCALE = re.compile(r"(blocks\.\d+)\.gamma_([12])")
_BIAS = re.compile(r"(blocks\.\d+\.attn)\.q_bias")
_QUERY = re.compile(r"(blocks\.\d+\.attn)\.q_proj\.(weight|bias)")
_OWN = re.compile(r"blocks\.\d+\.(gamma_[12]|attn\.([qv]_bias|[qkv]_proj\..+))|rope\.freqs")


def are_evas(names: Iterable[str]) -> bool:
    """Whether a tensor has a name that timm's EVA family alone has."""
    return any(_OWN.fullmatch(name) for name in names)


def as_vits(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors by the names of plain ViTs, with a key bias of zero where there is none.

    What is not complete keeps its name, which `check_weights` does not know.
    """
    found = {
        _SCALE.sub(lambda scale: f"{scale[1]}.ls{scale[2]}.gamma", name): tensor
        for name, tensor in weights.items()
    }
    for name in list(found):
        if (apart := _QUERY.fullmatch(name)) is not None:
            _join(found, apart[1], apart[2])
        elif (beside := _BIAS.fullmatch(name)) is not None:
            _join_biases(found, beside[1])
    return found


def _join(found: dict[str, torch.Tensor], attention: str, leaf: str) -> None:
    """Put queries, keys and values of three layers into one."""
    names = [f"{attention}.{part}_proj.{leaf}" for part in "qkv"]
    query = found[names[0]]
    if leaf == "bias" and names[1] not in found and names[2] in found:
        found[names[1]] = torch.zeros_like(query)
    if all(name in found and found[name].shape == query.shape for name in names):
        found[f"{attention}.qkv.{leaf}"] = torch.cat([found.pop(name) for name in names])


def _join_biases(found: dict[str, torch.Tensor], attention: str) -> None:
    query, values = f"{attention}.q_bias", f"{attention}.v_bias"
    joined = f"{attention}.qkv.bias"
    if values in found and joined not in found and found[values].shape == found[query].shape:
        own = found.pop(query)
        found[joined] = torch.cat([own, torch.zeros_like(own), found.pop(values)])
