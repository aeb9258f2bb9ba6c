"""Tensors with timm's names that replace those of a backbone, as edits."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch

from fpet_export.model.backbones._names import HEAD_NAMES
from fpet_export.model.edits import Dense, Edit, Own
from fpet_export.model.vit import empty_vit
from fpet_export.model.vit_spec import VitSpec

_SITES = {"patch_embed.proj": "patch_embed", "fc_norm": "norm"}
"""Modules whose site is called otherwise."""


def network_shapes(spec: VitSpec, classes: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a network's tensors, its head included, by timm's names."""
    network = empty_vit(dataclasses.replace(spec, classes=classes))
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def dense_edits(tensors: Mapping[str, torch.Tensor]) -> list[Edit]:
    """Return edits that put tensors in place of the backbone's; those of a head are left out."""
    layers: dict[str, dict[str, torch.Tensor]] = {}
    found: list[Edit] = []
    for name, tensor in tensors.items():
        layer, _, kind = name.rpartition(".")
        if name in HEAD_NAMES:
            continue
        if kind in ("weight", "bias"):
            layers.setdefault(layer, {})[kind] = tensor
        else:
            found.append(Own(name=name, tensor=tensor))
    return [*found, *(Dense(_SITES.get(layer, layer), **own) for layer, own in layers.items())]
