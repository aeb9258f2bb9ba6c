"""What other programs call the layers of a ViT: module paths to the sites of edits.

A site is called as timm calls the layer (`fpet_export.model.edits`), so that timm's own names need
little: the patch convolution is `patch_embed.proj`, and a last norm behind the pooling `fc_norm`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from fpet_export.model.vit_spec import VitSpec

_WRAPPERS = ("", "timm_model.")
"""What stands in front of timm's names: nothing, or Hugging Face's wrapper around timm."""


@dataclasses.dataclass(frozen=True)
class _Generation:
    """How transformers calls the layers of a family of models.

    Attributes:
        prefixes: What stands in front of every name but the classifier's.
        blocks: Where the blocks lie.
        inside: Layers of a block, by the site below it.
        outside: Other layers, by their site.
        rotary: Whether the positions of these models are rotary.
        gated: Whether their MLPs are gated.
    """

    prefixes: tuple[str, ...]
    blocks: str
    inside: Mapping[str, str]
    outside: Mapping[str, str]
    rotary: bool = False
    gated: bool = False


_OLD_ATTENTION = {
    "attn.q": "attention.attention.query",
    "attn.k": "attention.attention.key",
    "attn.v": "attention.attention.value",
    "attn.proj": "attention.output.dense",
}
_ATTENTION = {
    "attn.q": "attention.q_proj",
    "attn.k": "attention.k_proj",
    "attn.v": "attention.v_proj",
    "attn.proj": "attention.o_proj",
}
_MLP = {"mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
_OLD_MLP = {"mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense"}
_OLD_GATED_MLP = {"mlp.fc1": "mlp.weights_in", "mlp.fc2": "mlp.weights_out"}
_GATED_MLP = {"mlp.fc2": "mlp.down_proj"}
HALVES = ("gate_proj", "up_proj", "fc1_g", "fc1_x")
"""Layers that are half of a gated MLP's first one; no site is called so."""
_VIT_NORMS = {"norm1": "layernorm_before", "norm2": "layernorm_after"}
_DINOV2_NORMS = {"norm1": "norm1", "norm2": "norm2"}
_EMBEDDED = {"patch_embed": "embeddings.patch_embeddings.projection", "norm": "layernorm"}
_IN_V3 = _ATTENTION | _DINOV2_NORMS
_MLP_V3 = {"mlp.fc1": "mlp.up_proj", "mlp.fc2": "mlp.down_proj"}
_OUTSIDE_V3 = {"patch_embed": "embeddings.patch_embeddings", "norm": "norm"}
_VIT, _DINOV2 = ("vit.", "deit.", ""), ("dinov2.", "dinov2_with_registers.", "")

_GENERATIONS = (
    # ViT and DeiT: transformers 4, and every file of a whole model; then version 5 at run time.
    _Generation(_VIT, "encoder.layer", _OLD_ATTENTION | _OLD_MLP | _VIT_NORMS, _EMBEDDED),
    _Generation(_VIT, "layers", _ATTENTION | _MLP | _VIT_NORMS, _EMBEDDED),
    # DINOv2, likewise.
    _Generation(_DINOV2, "encoder.layer", _OLD_ATTENTION | _MLP | _DINOV2_NORMS, _EMBEDDED),
    _Generation(_DINOV2, "encoder.layer", _ATTENTION | _MLP | _DINOV2_NORMS, _EMBEDDED),
    _Generation(
        _DINOV2,
        "encoder.layer",
        _OLD_ATTENTION | _OLD_GATED_MLP | _DINOV2_NORMS,
        _EMBEDDED,
        gated=True,
    ),
    _Generation(
        _DINOV2, "encoder.layer", _ATTENTION | _GATED_MLP | _DINOV2_NORMS, _EMBEDDED, gated=True
    ),
    # DINOv3: at run time, and in files.
    *(
        _Generation(("",), blocks, _IN_V3 | mlp, _OUTSIDE_V3, rotary=True, gated=gated)
        for blocks in ("model.layer", "layer")
        for mlp, gated in ((_MLP_V3, False), (_GATED_MLP, True))
    ),
    # CLIP.
    _Generation(
        ("vision_model.", ""),
        "encoder.layers",
        {
            "attn.q": "self_attn.q_proj",
            "attn.k": "self_attn.k_proj",
            "attn.v": "self_attn.v_proj",
            "attn.proj": "self_attn.out_proj",
            "norm1": "layer_norm1",
            "norm2": "layer_norm2",
        }
        | _MLP,
        {
            "patch_embed": "embeddings.patch_embedding",
            "norm_pre": "pre_layrnorm",
            "norm": "post_layernorm",
        },
    ),
)


def layouts(spec: VitSpec) -> list[Mapping[str, str]]:
    """Return every way to call the layers of this network: module path to site."""
    found: list[Mapping[str, str]] = [
        {prefix + path: site for path, site in own.items()}
        for own in _of_timm(spec)
        for prefix in _WRAPPERS
    ]
    for generation in _GENERATIONS:
        for prefix in generation.prefixes:
            alike = generation.gated is spec.gated
            alike = alike and generation.rotary is (spec.rotary is not None)
            if alike and _may_be(prefix, spec):
                found.append(_hugging_face(spec, prefix, generation))
    return found


def _may_be(prefix: str, spec: VitSpec) -> bool:
    """Whether a network can be of the model that transformers calls so.

    DeiT has a distillation token, and DINOv2 a LayerScale; the one with registers adds no positions
    to them.
    """
    distilled, scaled = "dist" in spec.prefix, spec.layer_scale
    registers = "reg" in spec.prefix
    return {
        "vit.": not (distilled or scaled or registers),
        "deit.": distilled,
        "dinov2.": scaled and not registers,
        "dinov2_with_registers.": scaled and not spec.position_covers_prefix,
    }.get(prefix, True)


def _hugging_face(spec: VitSpec, prefix: str, names: _Generation) -> dict[str, str]:
    found = {
        f"{prefix}{name}": site
        for site, name in names.outside.items()
        if (site != "norm_pre" or spec.pre_norm) and (site != "norm" or spec.final_norm)
    }
    for index in range(spec.depth):
        for site, name in names.inside.items():
            found[f"{prefix}{names.blocks}.{index}.{name}"] = f"blocks.{index}.{site}"
    if spec.pool == "class+dist":
        return found | {"cls_classifier": "head", "distillation_classifier": "head_dist"}
    return found | {"classifier": "head"}


def linear_sites(sites: Mapping[str, str]) -> dict[str, str]:
    """Return those that are linear layers or the patch convolution, and no norms."""
    return {path: site for path, site in sites.items() if not _is_norm(site)}


def has_bias(site: str, spec: VitSpec) -> bool:
    """Whether the layer has a bias in this network."""
    leaf = site.rpartition(".")[2]
    if leaf in ("k", "qkv"):  # timm keeps a bias without one of the keys beside its layer
        return spec.qkv_bias and spec.key_bias
    if leaf in ("q", "v"):
        return spec.qkv_bias
    return leaf != "patch_embed" or spec.patch_bias


def _is_norm(site: str) -> bool:
    return site.rpartition(".")[2].startswith("norm")


def _inner_norms(spec: VitSpec) -> list[str]:
    return ["attn.norm"] * spec.attention_norm + ["mlp.norm"] * spec.mlp_norm


def _of_timm(spec: VitSpec) -> list[dict[str, str]]:
    may_be_eva = spec.rotary is not None or not spec.key_bias
    return [_timm(spec), _timm_apart(spec)] if may_be_eva else [_timm(spec)]


def _timm_apart(spec: VitSpec) -> dict[str, str]:
    """Return the names in timm's EVA family where queries, keys and values are three layers."""
    found = {}
    for path, site in _timm(spec).items():
        if not path.endswith(".attn.qkv"):
            found[path] = site
            continue
        for part in "qkv":
            found[f"{path.removesuffix('qkv')}{part}_proj"] = f"{site.removesuffix('qkv')}{part}"
    return found


def _timm(spec: VitSpec) -> dict[str, str]:
    found = {"patch_embed.proj": "patch_embed"}
    if spec.pre_norm:
        found["norm_pre"] = "norm_pre"
    for index in range(spec.depth):
        for layer in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"):
            found[f"blocks.{index}.{layer}"] = f"blocks.{index}.{layer}"
        found |= {
            f"blocks.{index}.{layer}": f"blocks.{index}.{layer}" for layer in _inner_norms(spec)
        }
    if spec.final_norm:
        found["fc_norm" if spec.pool_norm else "norm"] = "norm"
    found["head"] = "head"
    if spec.pool == "class+dist":
        found["head_dist"] = "head_dist"
    return found
