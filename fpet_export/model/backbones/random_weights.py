"""`random:NAME:SEED`: a backbone of the right shape with random weights, for speed only."""

from __future__ import annotations

import dataclasses
import re

import torch

from engines.errors import CheckpointError
from fpet_export.model.backbones import Backbone, BackboneOptions, _timm_module
from fpet_export.model.backbones._names import raw_pixels
from fpet_export.model.facts import Fact
from fpet_export.model.vit import empty_vit
from fpet_export.model.vit_spec import VitSpec

_SCHEME = "random:"
_SHAPES = {
    "tiny": (192, 3, 12),
    "small": (384, 6, 12),
    "base": (768, 12, 12),
    "large": (1024, 16, 24),
}
CLASSES = 1000
"""Logits of a model whose name says none."""


def recognises(text: str) -> bool:
    """Whether `text` starts with `random:`."""
    return text.startswith(_SCHEME)


def read(text: str, options: BackboneOptions) -> Backbone:
    """Draw the weights of the named shape from the seed."""
    name, seed = parse(text)
    named = spec_of_name(name, where=text)
    spec = dataclasses.replace(named, classes=named.classes or CLASSES)
    return Backbone(
        spec=spec,
        weights=draw(spec, seed),
        source=text,
        quality="random",
        preprocessing=raw_pixels(spec.image),
        facts={
            "heads": Fact(spec.heads, "the model's name"),
            "image": Fact(spec.image, "the model's name"),
            "pool": Fact(spec.pool, "the model's name"),
        },
    )


def parse(text: str) -> tuple[str, int]:
    """Return NAME and SEED of `random:NAME:SEED`.

    Raises:
        CheckpointError: It is written in another way, or the seed has more than 32 bits.
    """
    name, _, seed = text.removeprefix(_SCHEME).partition(":")
    if not name or not re.fullmatch(r"[0-9]{1,10}", seed) or int(seed) >= 2**32:
        raise CheckpointError(
            f"{text!r} is not random:NAME:SEED",
            where="--backbone",
            fix="write for example random:vit_base_patch16_224:0",
        )
    return name, int(seed)


def spec_of_name(name: str, *, where: str) -> VitSpec:
    """Return the shape of a model; the plain ones need no timm."""
    plain = _plain(name)
    if plain is not None:
        return plain
    _timm_module.check_name(name, where=where)
    return _timm_module.spec_of(_timm_module.build(name, where=where), where=where)


def _plain(name: str) -> VitSpec | None:
    """Return the shape of vit_SIZE_patchP_PIXELS, which needs no timm; else None."""
    parts = name.split("_")
    plain = len(parts) == 4 and parts[0] == "vit" and parts[1] in _SHAPES
    if plain and parts[2] in ("patch16", "patch32") and parts[3].isdecimal():
        width, heads, depth = _SHAPES[parts[1]]
        patch, side = int(parts[2][5:]), int(parts[3])
        if side % patch == 0:
            return VitSpec(
                image=(side, side),
                patch=(patch, patch),
                width=width,
                depth=depth,
                heads=heads,
                hidden=4 * width,
                classes=CLASSES,
            )
    return None


def spec_if_known(name: str, *, where: str) -> VitSpec | None:
    """Return the shape of a model, or None where nobody knows a model of this name.

    Raises:
        CheckpointError: It is known, and no plain ViT.
    """
    if _plain(name) is None and not _timm_module.is_known(name):
        return None
    return spec_of_name(name, where=where)


def draw(spec: VitSpec, seed: int) -> dict[str, torch.Tensor]:
    """Return random weights by timm's names.

    Matrices are normal with deviation 1/sqrt(in), so that activations keep their scale through
    the blocks; norms are near one and biases near zero, but neither is exactly so, so that no
    error can hide behind a neutral value.
    """
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, parameter in empty_vit(spec).state_dict().items():
        noise = torch.randn(parameter.shape, generator=generator)
        if name.endswith("gamma"):
            weights[name] = 0.5 + 0.1 * noise
        elif "norm" in name and name.endswith("weight"):
            weights[name] = 1 + 0.1 * noise
        elif parameter.ndim == 1:
            weights[name] = 0.1 * noise
        elif name.endswith("_token") or name == "pos_embed":
            weights[name] = 0.5 * noise
        else:
            weights[name] = noise / parameter[0].numel() ** 0.5
    return weights
