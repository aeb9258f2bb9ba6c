"""A file of PyTorch or safetensors with the names of timm or torchvision, and its surroundings."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from engines.errors import CheckpointError
from fpet_export.model import state_dicts
from fpet_export.model.backbones import (
    Backbone,
    BackboneOptions,
    _eva_names,
    _stated_pixels,
    _timm_config,
    _timm_module,
    _torchvision_names,
    _trained_by_timm,
)
from fpet_export.model.backbones._labels import labels_of
from fpet_export.model.backbones._names import (
    check_weights,
    plainly_named,
    require_vit,
    spec_from_names,
)
from fpet_export.model.backbones._positions import for_image
from fpet_export.model.facts import Fact, reconcile
from fpet_export.model.vit_spec import VitSpec

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
    within = options.within
    anchors = [within.anchor] if within else [_ANCHOR, _torchvision_names.ANCHOR]
    found = state_dicts.read(path, anchors, weights=options.weights)
    weights = within.select(found.tensors) if within else dict(found.tensors)
    facts: dict[str, Fact[Any]] = {**found.facts}
    of_torchvision = _torchvision_names.ANCHOR in weights
    if of_torchvision:
        weights = _torchvision_names.translated(weights, where=str(path))
        facts["names"] = Fact("torchvision's", path.name)
        options = dataclasses.replace(options, run_pool=_torchvision_names.POOL, resamples=False)
    for name in _TRAINING_ONLY:
        if weights.pop(name, None) is not None:
            facts["left out"] = Fact(name, "a tensor of pretraining that no inference reads")
    evas = _eva_names.are_evas(weights)
    weights = plainly_named(weights)
    require_vit(weights, where=path.name)  # before a configuration that may be another program's
    config = _timm_config.beside(path)
    named = _named(found, weights, config, options, where=path.name)
    if "norm_pre.weight" in weights and named is None:
        raise CheckpointError(
            "a ViT with a norm before its first block (CLIP's) comes with GELU or QuickGELU and "
            "with two epsilons; the tensors do not say which",
            where=str(path),
            fix="name the architecture: --arch NAME, or put timm's config.json beside the file",
        )
    if evas:
        _require_eva(named, where=path.name)
    spec, decided = spec_from_names(weights, options, where=path.name, named=named)
    if of_torchvision:
        _torchvision_names.require(spec, options.pool, where=path.name)
    labels = None
    if config is not None and config.labels is not None and spec.classes:
        labels, said = labels_of(
            config.labels.value, spec.classes, key=config.labels.source, where=str(config.path)
        )
        facts |= said
    weights, spec, resampled = for_image(
        check_weights(weights, spec, where=str(path)), spec, options, where=path.name
    )
    prepared, source, others, resize = _stated_pixels.of_file(path, spec.image, config, options)
    return Backbone(
        spec=spec,
        weights=weights,
        source=path.name,
        quality="trained",
        preprocessing=prepared,
        normalisation=source,
        files=(path, *([config.path] if config else []), *others),
        facts=facts | decided | resampled | resize,
        names=found.names,
        labels=labels,
    )


def _require_eva(named: Fact[VitSpec] | None, *, where: str) -> None:
    """Refuse tensors with the names of timm's EVA family that nothing says more of.

    Their positions may be rotary, of which no tensor tells.
    """
    if named is None:
        raise CheckpointError(
            "the tensors have the names of timm's EVA family (EVA-02, DINOv3, RoPE-ViT), and do "
            "not say by what queries and keys are turned",
            where=where,
            fix="name the architecture: --arch NAME, or put timm's config.json beside the file",
        )
    if named.value.rotary is None and named.value.key_bias:
        raise CheckpointError(
            f"{named.source} names a network that is none of timm's EVA family (EVA-02, DINOv3, "
            "RoPE-ViT), whose names the tensors have",
            where=where,
            fix="name another architecture, or find the file that belongs to it",
        )


def _named(
    found: state_dicts.StateDict,
    weights: Mapping[str, torch.Tensor],
    config: _timm_config.TimmConfig | None,
    options: BackboneOptions,
    *,
    where: str,
) -> Fact[VitSpec] | None:
    """Return the network that is named by `config.json`, by the file itself or by `--arch`."""
    own = _trained_by_timm.model_of(found.settings, where=where)
    claims = [] if config is None else [Fact(config.architecture, config.path.name)]
    claims += [] if own is None else [Fact(own.value[0], own.source)]
    claims += [] if options.arch is None else [Fact(options.arch, "--arch")]
    fact = reconcile("the architecture", claims, where=where)
    if config is not None or fact is None:
        return None if config is None else Fact(config.spec, config.path.name)
    source = fact.source if own is not None else f"--arch {options.arch}"
    arguments: dict[str, Any] = {} if own is None else dict(own.value[1])
    head = weights.get("head.weight")
    if head is not None and head.ndim == 2:
        arguments.setdefault("num_classes", len(head))
    _timm_module.check_name(fact.value, where=source)
    if options.pool is not None and own is None:
        norm = {"fc_norm", "use_fc_norm"} & _timm_module.arguments_of(fact.value)  # has one of both
        arguments |= {"global_pool": options.pool} | dict.fromkeys(
            norm, "fc_norm.weight" in weights
        )
    model = _timm_module.build(fact.value, where=source, **arguments)
    return Fact(_timm_module.spec_of(model, where=source), source)
