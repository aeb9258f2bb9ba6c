"""What other programs call the layers of a ViT: module paths to the sites of edits.

A site is called as timm calls the layer (`fpet_export.model.edits`), so that timm's own names need
little: the patch convolution is `patch_embed.proj`, and a last norm behind the pooling `fc_norm`.
"""

from __future__ import annotations

from collections.abc import Mapping

from fpet_export.model.vit import VitSpec

_WRAPPERS = ("", "timm_model.")
"""What stands in front of timm's names: nothing, or Hugging Face's wrapper around timm."""

_MODELS = ("vit.", "deit.", "dinov2.", "dinov2_with_registers.", "")
"""What stands in front of the names of transformers; nothing in a model without a task's head."""

_ATTENTIONS = (
    {"q": "attention.attention.query", "k": "attention.attention.key",
     "v": "attention.attention.value", "proj": "attention.output.dense"},
    {"q": "attention.q_proj", "k": "attention.k_proj", "v": "attention.v_proj",
     "proj": "attention.o_proj"},
)  # fmt: skip
"""How transformers calls the parts of an attention: version 4 (and every file), and version 5."""

_VIT_BLOCKS = (
    ("encoder.layer", {"norm1": "layernorm_before", "norm2": "layernorm_after",
                       "fc1": "intermediate.dense", "fc2": "output.dense"}),
    ("layers", {"norm1": "layernorm_before", "norm2": "layernorm_after", "fc1": "mlp.fc1",
                "fc2": "mlp.fc2"}),
)  # fmt: skip
"""Where the blocks of ViT and DeiT lie, and how their other layers are called, likewise."""

_DINOV2_BLOCKS = (
    ("encoder.layer", {"norm1": "norm1", "norm2": "norm2", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}),
) * 2


def layouts(spec: VitSpec) -> list[Mapping[str, str]]:
    """Return every way to call the layers of this network: module path to site."""
    found: list[Mapping[str, str]] = [
        {prefix + path: site for path, site in _timm(spec).items()} for prefix in _WRAPPERS
    ]
    for blocks in (_VIT_BLOCKS, _DINOV2_BLOCKS):
        for (where, layers), attention in zip(blocks, _ATTENTIONS, strict=True):
            for prefix in _MODELS:
                found.append(_hugging_face(spec, prefix, where, layers, attention))
    return found


def _hugging_face(
    spec: VitSpec,
    prefix: str,
    where: str,
    layers: Mapping[str, str],
    attention: Mapping[str, str],
) -> dict[str, str]:
    found = {f"{prefix}embeddings.patch_embeddings.projection": "patch_embed"}
    for index in range(spec.depth):
        inside = {f"attn.{part}": name for part, name in attention.items()}
        inside |= {
            layer if layer.startswith("norm") else f"mlp.{layer}": name
            for layer, name in layers.items()
        }
        for layer, name in inside.items():
            found[f"{prefix}{where}.{index}.{name}"] = f"blocks.{index}.{layer}"
    found[f"{prefix}layernorm"] = "norm"
    if spec.pool == "class+dist":
        return found | {"cls_classifier": "head", "distillation_classifier": "head_dist"}
    return found | {"classifier": "head"}


def linear_sites(sites: Mapping[str, str]) -> dict[str, str]:
    """Return those that are linear layers or the patch convolution, and no norms."""
    return {path: site for path, site in sites.items() if not _is_norm(site)}


def has_bias(site: str, spec: VitSpec) -> bool:
    """Whether the layer has a bias in this network."""
    leaf = site.rpartition(".")[2]
    if leaf in ("q", "k", "v", "qkv"):
        return spec.qkv_bias
    return leaf != "patch_embed" or spec.patch_bias


def _is_norm(site: str) -> bool:
    return site.rpartition(".")[2].startswith("norm")


def _timm(spec: VitSpec) -> dict[str, str]:
    found = {"patch_embed.proj": "patch_embed"}
    if spec.pre_norm:
        found["norm_pre"] = "norm_pre"
    for index in range(spec.depth):
        for layer in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"):
            found[f"blocks.{index}.{layer}"] = f"blocks.{index}.{layer}"
    found["fc_norm" if spec.pool_norm else "norm"] = "norm"
    found["head"] = "head"
    if spec.pool == "class+dist":
        found["head_dist"] = "head_dist"
    return found
