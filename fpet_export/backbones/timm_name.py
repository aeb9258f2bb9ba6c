"""`timm:NAME`: pretrained weights through timm, which may fetch them."""

from __future__ import annotations

from typing import Any

import torch

from engines.errors import CheckpointError, MissingDependencyError
from engines.manifest import WHITE, Preprocessing
from engines.registry import import_or_explain
from fpet_export.backbones import Backbone, BackboneOptions
from fpet_export.backbones._names import check_weights, spec_from_names
from fpet_export.vit import VitSpec

_SCHEME = "timm:"


def recognises(text: str) -> bool:
    """Whether `text` starts with `timm:`."""
    return text.startswith(_SCHEME)


def read(text: str, options: BackboneOptions) -> Backbone:
    """Build the named model with pretrained weights."""
    name = text.removeprefix(_SCHEME)
    check_name(name, where=text)
    try:
        model = import_or_explain("timm").create_model(name, pretrained=True)
    # timm reaches the network here through several libraries, each with exceptions of its own.
    except Exception as error:
        raise MissingDependencyError(
            f"timm could not fetch the weights of {name}: {str(error).splitlines()[0][:160]}",
            where=text,
            fix="fetch them where there is a network, and give the file: --backbone FILE",
        ) from error
    spec, preprocessing = spec_of(model, text)
    return Backbone(
        spec=spec,
        weights=check_weights(model.state_dict(), spec, where=text),
        source=text,
        quality="trained",
        preprocessing=preprocessing,
        facts={"heads": "timm", "image": "timm"},
    )


def check_name(name: str, *, where: str) -> None:
    """Raise a CheckpointError unless timm has a plain ViT of this name."""
    timm = import_or_explain("timm")
    if not timm.is_model(name):
        near = timm.list_models(f"*{name.split('.')[0]}*")[:3]
        raise CheckpointError(
            f"timm {timm.__version__} has no model {name!r}",
            where=where,
            fix=f"did you mean {', '.join(near)}?" if near else "see timm.list_models('vit_*')",
        )


def spec_of(model: torch.nn.Module, where: str) -> tuple[VitSpec, Preprocessing]:
    """Return the spec and the preprocessing of a timm model.

    Raises:
        CheckpointError: It is not a plain ViT.
    """
    timm_vit = import_or_explain("timm.models.vision_transformer")
    any_model: Any = model
    # By class, not by names: a block that normalises after its branches has the very same weights.
    block = type(any_model.blocks[0]) if isinstance(model, timm_vit.VisionTransformer) else None
    if block is not timm_vit.Block:
        kind = f" with blocks of type {block.__name__}" if block is not None else ""
        raise CheckpointError(
            f"{type(model).__name__}{kind} is not a plain ViT",
            where=where,
            fix="name a plain vit_*, deit_* or deit3_*",
        )
    config = any_model.pretrained_cfg
    image = tuple(any_model.patch_embed.img_size)
    heads = any_model.blocks[0].attn.num_heads
    spec, _ = spec_from_names(
        model.state_dict(), BackboneOptions(heads=heads, image=(image[0], image[1])), where=where
    )
    activation = type(any_model.blocks[0].mlp.act).__name__
    if activation not in ("GELU", "QuickGELU"):
        raise CheckpointError(
            f"its MLP uses {activation}, this toolkit runs GELU and QuickGELU",
            where=where,
            fix="choose another backbone",
        )
    pool = {"token": "class", "avg": "mean"}.get(any_model.global_pool)
    if spec.pool != "class+dist" and pool is None:
        raise CheckpointError(
            f"it pools by {any_model.global_pool!r}, wanted the class token or the mean",
            where=where,
            fix="choose another backbone",
        )
    fields: dict[str, Any] = {
        "norm_eps": any_model.blocks[0].norm1.eps,
        "activation": "quick_gelu" if activation == "QuickGELU" else "gelu",
        "pool": spec.pool if spec.pool == "class+dist" else pool,
    }
    preprocessing = Preprocessing(
        size=spec.image,
        interpolation=config["interpolation"],
        crop=float(config["crop_pct"]),
        decode="full",
        background=WHITE,
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )
    return VitSpec(**{**vars(spec), **fields}), preprocessing
