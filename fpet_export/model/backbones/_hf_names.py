"""Names of Hugging Face's vision transformers, by what a module does.

Two generations of names are on disk: the one of transformers 4, which version 5 still writes for
whole models, and the one that version 5 has at run time, which adapters are saved with. Both are
read here, with the prefix of a task's wrapper and without it, into the sites of timm's names:

    patch_embed, norm_pre, norm, head, head_dist, and in each block blocks.N.norm1, norm2,
    attn.q, attn.k, attn.v, attn.proj, mlp.fc1, mlp.fc2, ls1, ls2
"""

from __future__ import annotations

import re

_WRAPPERS = ("vit", "deit", "dinov2", "dinov2_with_registers", "vision_model")
"""Attributes under which a classifier keeps its vision transformer."""

_BLOCK = re.compile(r"(?:encoder\.|model\.)?layers?\.(\d{1,4})\.(.+)")

_IN_BLOCK = {
    "attention.attention.query": "attn.q",
    "attention.attention.key": "attn.k",
    "attention.attention.value": "attn.v",
    "attention.output.dense": "attn.proj",
    "attention.q_proj": "attn.q",
    "attention.k_proj": "attn.k",
    "attention.v_proj": "attn.v",
    "attention.o_proj": "attn.proj",
    "self_attn.q_proj": "attn.q",
    "self_attn.k_proj": "attn.k",
    "self_attn.v_proj": "attn.v",
    "self_attn.out_proj": "attn.proj",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
    "mlp.up_proj": "mlp.fc1",
    "mlp.down_proj": "mlp.fc2",
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "layer_norm1": "norm1",
    "layer_norm2": "norm2",
    "norm1": "norm1",
    "norm2": "norm2",
    "layer_scale1": "ls1",
    "layer_scale2": "ls2",
}
_OUTSIDE = {
    "embeddings.patch_embeddings.projection": "patch_embed",
    "embeddings.patch_embedding": "patch_embed",
    "embeddings.patch_embeddings": "patch_embed",
    "pre_layrnorm": "norm_pre",
    "layernorm": "norm",
    "norm": "norm",
    "post_layernorm": "norm",
    "classifier": "head",
    "cls_classifier": "head",
    "distillation_classifier": "head_dist",
}
_TOKENS = {
    "embeddings.cls_token": "cls_token",
    "embeddings.class_embedding": "cls_token",
    "embeddings.distillation_token": "dist_token",
    "embeddings.register_tokens": "reg_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.position_embedding.weight": "pos_embed",
}
_GATED = {
    "weights_in": "fc1",
    "weights_out": "fc2",
    "gate_proj": "fc1_g",
    "up_proj": "fc1_x",
    "down_proj": "fc2",
}
"""Layers of a gated MLP: in files, and as version 5 has them at run time."""

_POOLING = {
    "probe": "latent",
    "attention.in_proj_weight": "qkv.weight",
    "attention.in_proj_bias": "qkv.bias",
    "attention.out_proj.weight": "proj.weight",
    "attention.out_proj.bias": "proj.bias",
    "layernorm.weight": "norm.weight",
    "layernorm.bias": "norm.bias",
    "mlp.fc1.weight": "mlp.fc1.weight",
    "mlp.fc1.bias": "mlp.fc1.bias",
    "mlp.fc2.weight": "mlp.fc2.weight",
    "mlp.fc2.bias": "mlp.fc2.bias",
}
"""Tensors of SigLIP's attention pooling."""

_UNREAD = {
    "embeddings.mask_token": "of pretraining",
    "pooler.dense.weight": "of the pooler, which no classifier reads",
    "pooler.dense.bias": "of the pooler, which no classifier reads",
}
_UNREAD_BELOW = {"head.": "of the attention pooling, which this classifier does not read"}

_LEAVES = {"weight": "weight", "bias": "bias", "lambda1": "gamma"}


def site_of(module: str) -> str | None:
    """Return the site of a module of transformers, such as "blocks.3.attn.q"; None if unknown.

    Args:
        module: Its path in a classifier or in the model alone, such as
            "vit.layers.3.attention.q_proj" or "encoder.layer.3.attention.attention.query".
    """
    for path in (module, *_unwrapped(module)):
        block = _BLOCK.fullmatch(path)
        if block is not None and block[2] in _IN_BLOCK:
            return f"blocks.{int(block[1])}.{_IN_BLOCK[block[2]]}"
        if path in _OUTSIDE:
            return _OUTSIDE[path]
    return None


def name_of(tensor: str) -> str | None:
    """Return timm's name of a tensor, with q, k and v apart; None if it has none.

    A name in which no classifier reads anything has none: see `unread`.
    """
    for path in (tensor, *_unwrapped(tensor)):
        if path in _TOKENS:
            return _TOKENS[path]
    module, _, leaf = tensor.rpartition(".")
    site = site_of(module)
    if site is None or leaf not in _LEAVES or (leaf == "lambda1") != (site[-3:-1] == "ls"):
        return None
    prefix = "patch_embed.proj" if site == "patch_embed" else site
    return f"{prefix}.{_LEAVES[leaf]}"


def name_in_gated(tensor: str) -> str | None:
    """Return timm's name of a tensor of a gated MLP; None of every other one."""
    for path in (tensor, *_unwrapped(tensor)):
        block = _BLOCK.fullmatch(path)
        layer, _, leaf = block[2].removeprefix("mlp.").partition(".") if block else ("", "", "")
        if block and layer in _GATED and leaf in ("weight", "bias"):
            return f"blocks.{int(block[1])}.mlp.{_GATED[layer]}.{leaf}"
    return None


def name_in_pooling(tensor: str) -> str | None:
    """Return the name of a tensor of the attention pooling, with q, k and v in one; else None."""
    for path in (tensor, *_unwrapped(tensor)):
        name = _POOLING.get(path.removeprefix("head."))
        if name is not None and path.startswith("head."):
            return f"attn_pool.{name}"
    return None


def unread(tensor: str) -> str | None:
    """Return what a tensor belongs to that no classifier reads; None for every other one."""
    for path in (tensor, *_unwrapped(tensor)):
        if path in _UNREAD:
            return _UNREAD[path]
    for path in _unwrapped(tensor):
        for start, owner in _UNREAD_BELOW.items():
            if path.startswith(start) and tensor.startswith("vision_model."):
                return owner
    return None


def _unwrapped(path: str) -> tuple[str, ...]:
    """Return the path without a wrapper's name, where it has one."""
    wrapper, _, rest = path.partition(".")
    return (rest,) if wrapper in _WRAPPERS and rest else ()
