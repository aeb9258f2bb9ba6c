"""The names that adapters have for layers, beside those that whole models are read by."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from fpet_export.model.backbones import _hf_names
from fpet_export.model.module_names import has_bias, layouts, linear_sites
from fpet_export.model.rotary import Rotary
from fpet_export.model.vit import Vit
from tests.fpet_export.tiny import spec_of


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"prefix": ("cls", "dist"), "pool": "class+dist"},
        {"pre_norm": True},
        {"rotary": Rotary(), "absolute_positions": False},
    ],
)
def test_every_layout_names_every_layer_once(changes: dict[str, Any]) -> None:
    spec = spec_of(depth=2, **changes)
    wanted = {
        {"patch_embed.proj": "patch_embed"}.get(path, path)
        for path, layer in Vit(spec).named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.LayerNorm)
    }
    split = {
        f"{path.removesuffix('qkv')}{part}" if path.endswith("qkv") else path
        for path in wanted
        for part in "qkv"
    }

    found = layouts(spec)

    timm, others = found[:2], found[2:]
    assert len({frozenset(sites) for sites in found}) == len(found)
    for sites in timm:
        assert set(sites.values()) == wanted
    for sites in others:
        assert len(set(sites.values())) == len(sites)
        assert set(sites.values()) | {"norm_pre"} == split | {"norm_pre"}


@pytest.mark.parametrize(
    "changes",
    [{}, {"prefix": ("cls", "dist"), "pool": "class+dist"}, {"rotary": Rotary()}],
)
def test_adapters_and_whole_models_are_read_by_the_same_names(changes: dict[str, Any]) -> None:
    """`_hf_names` reads names of any depth, `layouts` lists those of one network."""
    of_timm = 4 if "rotary" in changes else 2
    for sites in layouts(spec_of(depth=2, **changes))[of_timm:]:
        for module, site in sites.items():
            assert _hf_names.site_of(module) == site


def test_norms_are_no_linear_layers_and_biases_may_be_missing() -> None:
    sites = layouts(spec_of(depth=1))[0]

    assert set(sites) - set(linear_sites(sites)) == {"blocks.0.norm1", "blocks.0.norm2", "norm"}
    bare = spec_of(depth=1, qkv_bias=False, patch_bias=False)
    assert [site for site in sites.values() if not has_bias(site, bare)] == [
        "patch_embed",
        "blocks.0.attn.qkv",
    ]
    assert not has_bias("blocks.0.attn.k", bare)


def test_names_of_another_family_are_not_those_of_a_network() -> None:
    """An adapter of DINOv3 in transformers does not fit a plain ViT of the same size."""
    plain, rotary = layouts(spec_of(depth=1)), layouts(spec_of(depth=1, rotary=Rotary()))
    for module in ("layer.0.attention.q_proj", "model.layer.0.mlp.up_proj"):
        assert any(module in sites for sites in rotary)
        assert not any(module in sites for sites in plain)
    assert any("blocks.0.attn.q_proj" in sites for sites in rotary)
    assert not any("blocks.0.attn.q_proj" in sites for sites in plain)
    bare = spec_of(depth=1, key_bias=False)
    assert [has_bias(f"blocks.0.attn.{part}", bare) for part in ("q", "k", "v", "qkv")] == [
        True, False, True, False,
    ]  # fmt: skip
