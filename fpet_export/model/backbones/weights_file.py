"""A file of PyTorch or safetensors with timm's names, and the configuration beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engines.errors import CheckpointError
from fpet_export.model import state_dicts
from fpet_export.model.backbones import Backbone, BackboneOptions, _stated_pixels, _timm_config
from fpet_export.model.backbones._names import check_weights, require_vit, spec_from_names
from fpet_export.model.facts import Fact

_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".pth.tar", ".ckpt")
_ANCHOR = "patch_embed.proj.weight"
_TRAINING_ONLY = ("mask_token",)
"""Tensors of masked pretraining that no inference reads (DINOv2's release has one)."""


def recognises(text: str) -> bool:
    """Whether `text` ends like a file of tensors."""
    return text.lower().endswith(_SUFFIXES)


def read(text: str, options: BackboneOptions) -> Backbone:
    """Read and check the file, and what lies beside it."""
    path = Path(text)
    found = state_dicts.read(path, [_ANCHOR], weights=options.weights)
    weights = dict(found.tensors if options.select is None else options.select(found.tensors))
    facts: dict[str, Fact[Any]] = {**found.facts}
    for name in _TRAINING_ONLY:
        if weights.pop(name, None) is not None:
            facts["left out"] = Fact(name, "a tensor of pretraining that no inference reads")
    require_vit(weights, where=path.name)  # before a configuration that may be another program's
    config = _timm_config.beside(path)
    named = None if config is None else Fact(config.spec, config.path.name)
    if "norm_pre.weight" in weights and config is None:
        raise CheckpointError(
            "a ViT with a norm before its first block (CLIP's) comes with GELU or QuickGELU and "
            "with two epsilons; the tensors do not say which",
            where=str(path),
            fix="put timm's config.json, which names the architecture, beside the file",
        )
    spec, decided = spec_from_names(weights, options, where=path.name, named=named)
    prepared, source, others = _stated_pixels.of_file(path, spec.image, config, options)
    return Backbone(
        spec=spec,
        weights=check_weights(weights, spec, where=str(path)),
        source=path.name,
        quality="trained",
        preprocessing=prepared,
        normalisation=source,
        files=(path, *([config.path] if config else []), *others),
        facts=facts | decided,
        names=found.names,
    )
