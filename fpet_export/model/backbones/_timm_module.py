"""A timm model, built without memory, to the `VitSpec` it computes; what differs is refused.

timm's constructor has more than thirty arguments that change the answers. They are not read one by
one: timm itself builds the model, and what stands in the modules is the truth.
"""

from __future__ import annotations

import dataclasses
import inspect
import warnings
from typing import Any

import torch
from torch import nn

from engines.errors import CheckpointError
from engines.near_names import did_you_mean
from engines.registry import import_or_explain
from fpet_export.model.backbones import _timm_eva
from fpet_export.model.backbones._names import (
    compare_shapes,
    plainly_named,
    prefix_of,
    tensors_unsupported,
)
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
from fpet_export.model.vit import empty_vit
from fpet_export.model.vit_spec import VitSpec

_NOT_ARGUMENTS = {"self", "device", "dtype"}


def is_known(name: str) -> bool:
    """Whether timm has a model of this name, with or without a tag."""
    known: bool = import_or_explain("timm").is_model(name)
    return known


def check_name(name: str, *, where: str) -> None:
    """Raise a CheckpointError unless timm has a plain ViT of this name."""
    timm = import_or_explain("timm")
    if not is_known(name):
        # A tag names weights of an architecture: propose both alike.
        known = timm.list_models(["vit_*", "deit*", "eva*"], pretrained="." in name)
        raise CheckpointError(
            f"timm {timm.__version__} has no model {name!r}",
            where=where,
            fix=did_you_mean(name, known, otherwise="see timm.list_models('vit_*')"),
        )


def arguments_of(name: str) -> set[str]:
    """Return the arguments of timm's constructor of a model that a configuration may set."""
    own = import_or_explain("timm.models.eva").Eva
    if not import_or_explain("timm.models").is_model_in_modules(name, ["eva"]):
        own = import_or_explain("timm.models.vision_transformer").VisionTransformer
    return set(inspect.signature(own.__init__).parameters) - _NOT_ARGUMENTS


def build(name: str, *, where: str, **arguments: Any) -> nn.Module:
    """Let timm build a model whose parameters take no memory.

    Raises:
        CheckpointError: timm has no such model, or cannot build it with these arguments.
    """
    timm = import_or_explain("timm")
    try:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # timm warns about names that it has renamed
            model: nn.Module = timm.create_model(name, pretrained=False, **arguments)
    # timm's models raise almost anything for arguments that they do not take.
    except Exception as error:
        given = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        raise CheckpointError(
            f"timm {timm.__version__} cannot build {name} with {given}: "
            f"{(str(error).strip() or type(error).__name__).splitlines()[0][:160]}",
            where=where,
            fix="correct the file, or give another backbone",
        ) from error
    return model


def spec_of(model: nn.Module, *, where: str) -> VitSpec:
    """Return what a timm model computes.

    Args:
        model: As timm built it.
        where: Whom to name in an error.

    Raises:
        CheckpointError: It is not a plain ViT; timm's argument that makes it another is named.
    """
    any_model: Any = model
    if _timm_eva.is_eva(model):
        spec = _timm_eva.spec_of(any_model, where=where)
    else:
        spec = _plain_spec(any_model, where)
    ours = empty_vit(dataclasses.replace(spec, classes=max(spec.classes, 1))).state_dict()
    wanted = {n: tuple(t.shape) for n, t in ours.items() if spec.classes or "head" not in n}
    own = plainly_named(model.state_dict())
    problems = compare_shapes({n: tuple(t.shape) for n, t in own.items()}, wanted)
    if problems:
        raise refusal(f"timm's model is not a plain ViT: {problems}", where)
    return spec


def _plain_spec(any_model: Any, where: str) -> VitSpec:
    """Return what a model of timm's VisionTransformer computes."""
    _require_plain_classes(any_model, where)
    tensors_unsupported(any_model.state_dict(), where=where)
    _require_plain_modules(any_model, where)
    block, embedding = any_model.blocks[0], any_model.patch_embed
    activation = activation_of(block.mlp.act)
    assert activation is not None, "refused above"
    distilled = hasattr(any_model, "dist_token")
    height, width = embedding.img_size
    rows, columns = embedding.grid_size
    prefix = prefix_of(any_model.state_dict())
    positions = any_model.pos_embed.shape[1]
    return VitSpec(
        image=(height, width),
        patch=tuple(embedding.proj.kernel_size),
        width=any_model.embed_dim,
        depth=len(any_model.blocks),
        heads=block.attn.num_heads,
        hidden=block.mlp.fc2.in_features,
        classes=any_model.num_classes,
        prefix=prefix,
        pool="class+dist" if distilled else POOLS[any_model.global_pool],
        position_covers_prefix=positions != rows * columns,
        norm_eps=block.norm1.eps,
        activation=activation,
        qkv_bias=block.attn.qkv.bias is not None,
        patch_bias=embedding.proj.bias is not None,
        pre_norm=not isinstance(any_model.norm_pre, nn.Identity),
        layer_scale=not isinstance(block.ls1, nn.Identity),
        qk_norm=not isinstance(block.attn.q_norm, nn.Identity),
        attention_norm=not isinstance(block.attn.norm, nn.Identity),
        mlp_norm=not isinstance(block.mlp.norm, nn.Identity),
        gated=is_gated(block.mlp),
        pool_norm=not isinstance(any_model.fc_norm, nn.Identity),
        final_norm=bool(last_norms(any_model)),
    )


def _require_plain_classes(model: Any, where: str) -> None:
    """Refuse another network by its class: the weights of some have the very same names."""
    vit = import_or_explain("timm.models.vision_transformer")
    deit = import_or_explain("timm.models.deit")
    if type(model) not in (vit.VisionTransformer, deit.VisionTransformerDistilled):
        raise refusal(f"{type(model).__name__} is not a plain ViT", where)
    kinds = {type(block) for block in model.blocks}
    if kinds != {vit.Block}:
        other = ", ".join(sorted(kind.__name__ for kind in kinds)) or "none"
        raise refusal(f"block_fn is {other}: VisionTransformer is not a plain ViT with it", where)


def _require_plain_modules(model: Any, where: str) -> None:
    """Refuse each argument of timm's constructor that makes another network, by its name."""
    vit = import_or_explain("timm.models.vision_transformer")
    require(model.pos_embed is not None, "pos_embed", "none", where)
    require(model.global_pool in POOLS, "global_pool", model.global_pool, where)
    include = model.pool_include_prefix and model.global_pool != "token"
    require(not include, "pool_include_prefix", True, where)
    last = last_norms(model)
    require(len(last) <= 1, "final_norm", f"{len(last)} norms", where)
    if model.global_pool == "map":
        last += require_latent_pool(model, where)
    require_patches(model.patch_embed, where)
    for block in model.blocks:
        attention, mlp = block.attn, block.mlp
        require(type(attention) is vit.Attention, "attn_layer", type(attention).__name__, where)
        plain = type(mlp) is vit.Mlp or is_gated(mlp)
        require(plain, "mlp_layer", type(mlp).__name__, where)
        normed = [not isinstance(n, nn.Identity) for n in (attention.q_norm, attention.k_norm)]
        require(normed[0] == normed[1], "qk_norm", "one of two", where)
        last += [attention.q_norm, attention.k_norm] if normed[0] else []
        inner = [attention.norm, mlp.norm]
        last += [norm for norm in inner if not isinstance(norm, nn.Identity)]
        require(attention.proj.bias is not None, "proj_bias", False, where)
        require(getattr(attention, "gate", None) is None, "attn_layer", "gated", where)
        scaled = [not isinstance(scale, nn.Identity) for scale in (block.ls1, block.ls2)]
        require(scaled[0] == scaled[1], "init_values", "one of two branches", where)
        require(activation_of(mlp.act) is not None, "act_layer", type(mlp.act).__name__, where)
        last += [block.norm1, block.norm2]
    require_norms(last, model.norm_pre, where)
