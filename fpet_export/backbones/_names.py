"""timm's weight names to a `VitSpec`: what the tensors themselves reveal, checked strictly."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Literal

import torch

from engines.errors import CheckpointError
from engines.manifest import WHITE, Preprocessing
from engines.plurals import counted
from fpet_export.backbones import PUBLISHED_HEADS, BackboneOptions
from fpet_export.vit import VitSpec, empty_vit

HEAD_NAMES = ("head.weight", "head.bias", "head_dist.weight", "head_dist.bias")

_UNSUPPORTED = {
    r"\.q_norm\.": "query/key norms",
    r"\.(w12|fc1_g|fc1_x)\.": "a gated MLP",
    r"rel_pos": "relative positions",
    r"attn_pool\.": "attention pooling",
    r"blocks\.\d+\.\d+\.": "parallel branches",
}


def raw_pixels(image: tuple[int, int]) -> Preprocessing:
    """Return the preprocessing of the authors' runs: bicubic resize, pixels in 0..1, no mean."""
    return Preprocessing(
        size=image,
        interpolation="bicubic",
        crop=1.0,
        decode="full",
        background=WHITE,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
    )


def spec_from_names(
    weights: Mapping[str, torch.Tensor], options: BackboneOptions, *, where: str
) -> tuple[VitSpec, dict[str, str]]:
    """Return the spec that tensors with timm's names have, and where each open fact came from.

    Raises:
        CheckpointError: The tensors are not a plain ViT, or leave the heads or the grid open.
    """
    for pattern, feature in _UNSUPPORTED.items():
        for name in weights:
            if re.search(pattern, name):
                raise CheckpointError(
                    f"{name} belongs to {feature}, which this toolkit does not run",
                    where=where,
                    fix="use a plain ViT backbone (see the README, Limits)",
                )
    needed = ("patch_embed.proj.weight", "pos_embed", "blocks.0.mlp.fc1.weight")
    absent = [name for name in needed if name not in weights]
    if absent:
        raise CheckpointError(
            f"not a ViT with timm's names: {', '.join(absent)} missing, "
            f"{len(weights)} tensors found",
            where=where,
            fix="give the backbone the run was trained on, as .npz, .safetensors or .pth",
        )
    patch_weight = weights["patch_embed.proj.weight"]
    if patch_weight.ndim != 4 or patch_weight.shape[1] != 3 or not patch_weight.numel():
        raise CheckpointError(
            f"patch_embed.proj.weight has shape {tuple(patch_weight.shape)}, wanted (C, 3, h, w)",
            where=where,
            fix="only backbones for three-channel images work",
        )
    width = patch_weight.shape[0]
    _check_dimensions(weights, where=where)
    blocks = {int(found[1]) for name in weights if (found := re.match(r"blocks\.(\d+)\.", name))}
    if blocks != set(range(len(blocks))):
        raise CheckpointError(
            f"blocks 0 to {max(blocks)} are not all there: {len(blocks)} found",
            where=where,
            fix="give the whole backbone",
        )
    prefix = _prefix(weights)
    heads, heads_source = _heads(width, max(blocks) + 1, options, where=where)
    patch = (patch_weight.shape[2], patch_weight.shape[3])
    image, covers, image_source = _image(
        weights["pos_embed"].shape[1], len(prefix), patch, options, where=where
    )
    pool_norm = "fc_norm.weight" in weights
    has_class = "cls" in prefix
    head = weights.get("head.weight")
    spec = VitSpec(
        image=image,
        patch=patch,
        width=width,
        depth=max(blocks) + 1,
        heads=heads,
        hidden=weights["blocks.0.mlp.fc1.weight"].shape[0],
        classes=0 if head is None else head.shape[0],
        prefix=prefix,
        pool="class+dist" if "dist" in prefix else ("class" if has_class else "mean"),
        position_covers_prefix=covers,
        qkv_bias="blocks.0.attn.qkv.bias" in weights,
        patch_bias="patch_embed.proj.bias" in weights,
        pre_norm="norm_pre.weight" in weights,
        layer_scale="blocks.0.ls1.gamma" in weights,
        pool_norm=pool_norm,
    )
    if pool_norm and has_class:
        spec = dataclasses.replace(spec, pool="mean")
    return spec, {"heads": heads_source, "image": image_source}


_DIMENSIONS = {
    "pos_embed": 3,
    "reg_token": 3,
    "blocks.0.mlp.fc1.weight": 2,
    "head.weight": 2,
}
"""How many dimensions the tensors have whose extents are read before all are compared."""


def _check_dimensions(weights: Mapping[str, torch.Tensor], *, where: str) -> None:
    for name, wanted in _DIMENSIONS.items():
        if name in weights and weights[name].ndim != wanted:
            raise CheckpointError(
                f"{name} has shape {tuple(weights[name].shape)}, wanted {wanted} dimensions",
                where=where,
                fix="give the backbone the run was trained on",
            )


def _prefix(weights: Mapping[str, torch.Tensor]) -> tuple[Literal["cls", "dist", "reg"], ...]:
    prefix: list[Literal["cls", "dist", "reg"]] = []
    if "cls_token" in weights:
        prefix.append("cls")
    if "dist_token" in weights:
        prefix.append("dist")
    if "reg_token" in weights:
        prefix += ["reg"] * weights["reg_token"].shape[1]
    return tuple(prefix)


def _heads(width: int, depth: int, options: BackboneOptions, *, where: str) -> tuple[int, str]:
    claims: list[tuple[int, str]] = []
    if options.heads is not None:
        claims.append((options.heads, "--heads"))
    revealed = options.head_width(depth, width) if options.head_width else None
    if revealed is not None:
        claims.append((width // revealed[0], revealed[1]))
    if not claims and width in PUBLISHED_HEADS:
        claims.append((PUBLISHED_HEADS[width], f"the published ViT of width {width}"))
    if not claims:
        raise CheckpointError(
            f"nothing says how many attention heads a ViT of width {width} has",
            where=where,
            fix="add --heads N, or put timm's config.json beside the file",
        )
    if len({heads for heads, _ in claims}) > 1:
        raise CheckpointError(
            f"{claims[0][0]} heads by {claims[0][1]}, {claims[1][0]} by {claims[1][1]}",
            where=where,
            fix="correct --heads, or give the backbone the run was trained on",
        )
    heads, source = claims[0]
    if heads < 1 or width % heads:
        raise CheckpointError(
            f"{heads} heads do not divide the token width {width}",
            where=source,
            fix="correct --heads",
        )
    return heads, source


def _image(
    positions: int,
    prefix: int,
    patch: tuple[int, int],
    options: BackboneOptions,
    *,
    where: str,
) -> tuple[tuple[int, int], bool, str]:
    """Return the image size, whether positions cover the prefix, and how that was found."""
    if options.image is not None:
        rows, columns = options.image[0] // patch[0], options.image[1] // patch[1]
        fits = options.image[0] % patch[0] == 0 and options.image[1] % patch[1] == 0
        for covers in (True, False):
            if fits and rows * columns + (prefix if covers else 0) == positions:
                return options.image, covers, "--image"
        raise CheckpointError(
            f"an image of {options.image[0]}x{options.image[1]} gives {rows * columns} patches "
            f"and {prefix} prefix tokens; pos_embed has {positions} rows",
            where=where,
            fix="correct --image HxW to the size the run was trained with",
        )
    for covers in (True, False):
        side = math.isqrt(max(positions - (prefix if covers else 0), 0))
        if side and side * side == positions - (prefix if covers else 0):
            image = (side * patch[0], side * patch[1])
            return image, covers, "the rows of pos_embed, as a square grid"
    raise CheckpointError(
        f"pos_embed has {positions} rows, which is not a square grid with {prefix} prefix tokens",
        where=where,
        fix="say the image size: --image HEIGHTxWIDTH",
    )


def check_weights(
    weights: Mapping[str, torch.Tensor], spec: VitSpec, *, where: str
) -> dict[str, torch.Tensor]:
    """Return float32 weights after checking every name, shape and value against `spec`.

    Raises:
        CheckpointError: Tensors are missing, unexpected, misshapen or not finite.
    """
    with_head = dataclasses.replace(spec, classes=max(spec.classes, 1))
    wanted = {name: tuple(p.shape) for name, p in empty_vit(with_head).state_dict().items()}
    for name in HEAD_NAMES:
        if name not in weights:
            wanted.pop(name, None)
    problems = compare_shapes({k: tuple(v.shape) for k, v in weights.items()}, wanted)
    if problems:
        raise CheckpointError(
            f"the weights are not those of a {spec.describe()}: {problems}",
            where=where,
            fix="give the backbone the run was trained on",
        )
    broken = sorted(name for name, tensor in weights.items() if not tensor.isfinite().all())
    if broken:
        raise CheckpointError(
            f"{counted(len(broken), 'tensor')} with NaN or infinity: {', '.join(broken[:3])}",
            where=where,
            fix="the file is damaged; fetch it again",
        )
    return {name: weights[name].float() for name in wanted}


def compare_shapes(
    found: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]]
) -> str:
    """Return one sentence on missing, unexpected and misshapen tensors; empty when all fit."""
    parts = []
    missing = sorted(set(wanted) - set(found))
    unexpected = sorted(set(found) - set(wanted))
    misshapen = sorted(n for n in set(found) & set(wanted) if found[n] != wanted[n])
    if missing:
        parts.append(f"{len(missing)} missing ({_some(missing)})")
    if unexpected:
        parts.append(f"{len(unexpected)} unexpected ({_some(unexpected)})")
    if misshapen:
        shapes = [f"{n} {found[n]}, wanted {wanted[n]}" for n in misshapen]
        parts.append(f"{len(misshapen)} misshapen ({_some(shapes)})")
    return "; ".join(parts)


def _some(names: list[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")
