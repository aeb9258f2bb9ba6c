"""A model of timm's EVA family, built without memory, to the `VitSpec` it computes.

EVA and EVA-02, DINOv3, RoPE-ViT and the Perception Encoder are one class there (`timm.models.eva`).
As in `_timm_module`, what stands in the modules is the truth, and what makes another network is
refused by timm's argument.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from engines.registry import import_or_explain
from fpet_export.model.backbones._names import prefix_of
from fpet_export.model.backbones._timm_parts import (
    POOLS,
    activation_of,
    is_gated,
    last_norms,
    refusal,
    require,
    require_latent_pool,
    require_norms,
    require_patches,
)
from fpet_export.model.rotary import Rotary
from fpet_export.model.vit_spec import VitSpec


def is_eva(model: nn.Module) -> bool:
    """Whether timm's class of the model is that of the EVA family."""
    return type(model) is import_or_explain("timm.models.eva").Eva


def spec_of(model: Any, *, where: str) -> VitSpec:
    """Return what the model computes.

    Raises:
        CheckpointError: It is more than a ViT with rotary positions and inner norms.
    """
    _require_plain(model, where)
    block, embedding = model.blocks[0], model.patch_embed
    attention = block.attn
    activation = activation_of(block.mlp.act)
    assert activation is not None, "refused above"
    height, width = embedding.img_size
    bias, key_bias = _biases(attention)
    return VitSpec(
        image=(height, width),
        patch=tuple(embedding.proj.kernel_size),
        width=model.embed_dim,
        depth=len(model.blocks),
        heads=attention.num_heads,
        hidden=block.mlp.fc2.in_features,
        classes=model.num_classes,
        prefix=prefix_of(model.state_dict()),
        pool=POOLS[model.global_pool],
        absolute_positions=model.pos_embed is not None,
        position_covers_prefix=model.pos_embed is None or not model.no_embed_class,
        rotary=_rotary(model, where),
        norm_eps=block.norm1.eps,
        activation=activation,
        qkv_bias=bias,
        key_bias=key_bias,
        patch_bias=embedding.proj.bias is not None,
        pre_norm=not isinstance(model.norm_pre, nn.Identity),
        layer_scale=block.gamma_1 is not None,
        qk_norm=not isinstance(attention.q_norm, nn.Identity),
        attention_norm=not isinstance(attention.norm, nn.Identity),
        mlp_norm=not isinstance(block.mlp.norm, nn.Identity),
        gated=is_gated(block.mlp),
        pool_norm=not isinstance(model.fc_norm, nn.Identity),
        final_norm=bool(last_norms(model)),
    )


def _require_plain(model: Any, where: str) -> None:
    """Refuse each argument of timm's constructor that makes another network, by its name."""
    eva, layers = import_or_explain("timm.models.eva"), import_or_explain("timm.layers")
    kinds = {type(block) for block in model.blocks}
    require(kinds == {eva.EvaBlock}, "use_post_norm", True, where)
    require(model.global_pool in POOLS, "global_pool", model.global_pool, where)
    last = last_norms(model)
    require(len(last) <= 1, "use_fc_norm and use_post_transformer_norm", "two norms", where)
    if model.global_pool == "map":
        own = "'map', which pools the tokens in front of the patches, too,"
        require(model.num_prefix_tokens == 0, "global_pool", own, where)
        last += require_latent_pool(model, where)
    require_patches(model.patch_embed, where)
    require(not model.patch_embed.dynamic_img_pad, "dynamic_img_pad", True, where)
    plain = (layers.Mlp, layers.GluMlp, layers.SwiGLU)
    for block in model.blocks:
        attention, mlp = block.attn, block.mlp
        known = type(attention) in (eva.EvaAttention, layers.AttentionRope)
        require(known, "attn_type", type(attention).__name__, where)
        require(getattr(attention, "num_kv_groups", 1) == 1, "num_kv_heads", "fewer", where)
        require(attention.gate is None, "attn_type", "gated", where)
        whole = attention.num_heads * attention.head_dim == model.embed_dim
        require(whole, "num_heads", attention.num_heads, where)
        require(type(mlp) in plain, "mlp_layer", type(mlp).__name__, where)
        require(type(mlp) is layers.Mlp or is_gated(mlp), "gate_last", True, where)
        require(activation_of(mlp.act) is not None, "act_layer", type(mlp.act).__name__, where)
        scaled = [gamma is not None for gamma in (block.gamma_1, block.gamma_2)]
        require(scaled[0] == scaled[1], "attn_only_layer_scale", True, where)
        inner = [attention.q_norm, attention.k_norm, attention.norm, mlp.norm]
        last += [norm for norm in inner if not isinstance(norm, nn.Identity)]
        last += [block.norm1, block.norm2]
    require_norms(last, model.norm_pre, where)


def _biases(attention: Any) -> tuple[bool, bool]:
    """Return whether queries and values have a bias, and whether keys have one, too."""
    if attention.qkv is None:
        return attention.q_proj.bias is not None, attention.k_proj.bias is not None
    if attention.qkv.bias is not None:
        return True, True
    return getattr(attention, "q_bias", None) is not None, False


def _rotary(model: Any, where: str) -> Rotary | None:
    """Return how queries and keys are turned."""
    layers, rope = import_or_explain("timm.layers"), model.rope
    if rope is None:
        return None
    halves = {bool(block.attn.rotate_half) for block in model.blocks}
    columns_first = rope.grid_indexing == "xy"
    if model.blocks[0].attn.head_dim % 4:
        raise refusal("rotary positions need heads whose width is a multiple of 4", where)
    if type(rope) is layers.RotaryEmbeddingMixed:
        require(halves == {False}, "rope_rotate_half", True, where)
        return Rotary(learned=True, columns_first=columns_first)
    known = type(rope) in (layers.RotaryEmbeddingCat, layers.RotaryEmbeddingDinoV3)
    require(known, "rope_type", type(rope).__name__, where)
    require(halves == {bool(rope.rotate_half)}, "rope_rotate_half", sorted(halves), where)
    require(rope.temperature is not None, "rope_temperature", None, where)
    shared: dict[str, Any] = {
        "pairs": "halves" if rope.rotate_half else "neighbours",
        "temperature": float(rope.temperature),
        "offset": float(rope.grid_offset),
        "columns_first": columns_first,
    }
    if type(rope) is layers.RotaryEmbeddingDinoV3:
        plain = rope.normalize_coords == "separate" and rope.max_period is None
        require(plain, "rope_type", "'dinov3' with periods or coordinates of its own", where)
        return Rotary(coordinates="centred", **shared)
    require(rope.grid_type == "index" and not rope.in_pixels, "rope_type", rope.grid_type, where)
    reference = rope.ref_feat_shape
    return Rotary(reference=None if reference is None else tuple(reference), **shared)
