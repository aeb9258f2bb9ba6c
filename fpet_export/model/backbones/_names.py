"""timm's weight names to a `VitSpec`: what the tensors themselves reveal, checked strictly."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch

from engines.errors import CheckpointError
from engines.manifest import WHITE, Preprocessing
from engines.plurals import counted
from fpet_export.model.backbones import BackboneOptions, _eva_names
from fpet_export.model.backbones._hidden_facts import ask_for, heads_of, image_of, pool_of
from fpet_export.model.facts import Fact
from fpet_export.model.foreign_names import whose
from fpet_export.model.vit import empty_vit
from fpet_export.model.vit_spec import VitSpec

HEAD_NAMES = ("head.weight", "head.bias", "head_dist.weight", "head_dist.bias")

_UNSUPPORTED = {
    r"rel_pos": "relative positions",
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


def tensors_unsupported(names: Iterable[str], *, where: str) -> None:
    """Refuse names that belong to a network which this toolkit does not run.

    Raises:
        CheckpointError: There is such a name.
    """
    for name in names:
        for pattern, feature in _UNSUPPORTED.items():
            if re.search(pattern, name):
                raise CheckpointError(
                    f"{name} belongs to {feature}, which this toolkit does not run",
                    where=where,
                    fix="use a plain ViT backbone (see the README, Limits)",
                )


def spec_from_names(
    weights: Mapping[str, torch.Tensor],
    options: BackboneOptions,
    *,
    where: str,
    named: Fact[VitSpec] | None = None,
    shown: Fact[int] | None = None,
) -> tuple[VitSpec, dict[str, Fact[Any]]]:
    """Return the spec of tensors with timm's names, and where each fact that they hide came from.

    Args:
        weights: The tensors.
        options: What the user and the run say.
        where: Whom to name in an error.
        named: What the configuration beside the tensors says that they are.
        shown: The heads, where another layout of the same file shows them.

    Raises:
        CheckpointError: The tensors are not a plain ViT, contradict what is said of them, or leave
            the heads, the grid or the pool open.
    """
    require_vit(weights, where=where)
    height, width = weights["patch_embed.proj.weight"].shape[2:]
    head, hidden = weights.get("head.weight"), _hidden(weights, where=where)
    norms = [name for name in ("norm.weight", "fc_norm.weight") if name in weights]
    seen = VitSpec(
        image=(height, width),  # until the positions are read
        patch=(height, width),
        width=weights["patch_embed.proj.weight"].shape[0],
        depth=_depth(weights, where=where),
        heads=1,
        hidden=hidden,
        classes=0 if head is None else head.shape[0],
        prefix=prefix_of(weights),
        absolute_positions="pos_embed" in weights,
        qkv_bias="blocks.0.attn.qkv.bias" in weights,
        patch_bias="patch_embed.proj.bias" in weights,
        pre_norm="norm_pre.weight" in weights,
        layer_scale="blocks.0.ls1.gamma" in weights,
        pool="attention" if "attn_pool.latent" in weights else "class",  # the others hide
        qk_norm="blocks.0.attn.q_norm.weight" in weights,
        attention_norm="blocks.0.attn.norm.weight" in weights,
        mlp_norm="blocks.0.mlp.norm.weight" in weights,
        gated=hidden != weights["blocks.0.mlp.fc1.weight"].shape[0],
        pool_norm="fc_norm.weight" in weights,
        final_norm=bool(norms) or named is None,  # a file that nothing describes has lost one
    )
    if named is not None:
        _refuse_contradiction(seen, named, where=where)
    elif not (seen.patch_bias or seen.pre_norm):
        raise CheckpointError(
            "patch_embed.proj.bias is missing, which a ViT has that has no norm before its first "
            "block (norm_pre)",
            where=where,
            fix="give the whole file; or name the architecture, --arch NAME, or put timm's "
            "config.json beside it",
        )
    if named is None and not seen.absolute_positions:
        raise CheckpointError(
            "pos_embed is missing: a network without learned positions turns queries and keys "
            "(rotary positions, as DINOv3 has them), and the tensors do not say by what",
            where=where,
            fix="name the architecture: --arch NAME, or put timm's config.json beside the file; if "
            "it should have positions, give the whole file",
        )
    positions = weights["pos_embed"].shape[1] if seen.absolute_positions else 0
    image, covers = image_of(seen, positions, options, named, where=where)
    seen = dataclasses.replace(seen, image=image.value, position_covers_prefix=covers)
    heads = heads_of(seen, options, named, shown, where=where)
    pool = pool_of(seen, options, named, where=where)
    if heads is None or pool is None:
        asked = {}
        if heads is None:
            asked[f"how many attention heads this ViT of width {seen.width} has"] = "--heads N"
        if pool is None:
            what = "whether its head reads the class token or the mean over the patches"
            asked[what] = "--pool token|avg"
        raise ask_for(asked, where=where)
    code = options.run_pool
    unsaid = (
        "timm's default: nothing beside the file says otherwise" if code is None else code.source
    )
    if seen.gated and named is None:
        raise CheckpointError(
            "the MLPs are gated, and the tensors do not say by which activation",
            where=where,
            fix="name the architecture: --arch NAME, or put timm's config.json beside the file",
        )
    arithmetic = named or Fact(seen, unsaid)
    spec = dataclasses.replace(
        seen,
        heads=heads.value,
        pool=pool.value,  # type: ignore[arg-type]
        norm_eps=arithmetic.value.norm_eps,
        activation=arithmetic.value.activation,
        rotary=arithmetic.value.rotary,
        key_bias=arithmetic.value.key_bias,
    )
    _require_no_key_bias(weights, spec, arithmetic.source, where=where)
    rotary = (
        {}
        if spec.rotary is None
        else {"positions": Fact(spec.rotary.describe(), arithmetic.source)}
    )
    return spec, rotary | {
        "heads": heads,
        "image": Fact("x".join(map(str, image.value)), image.source),
        "pool": pool,
        "activation": Fact(spec.activation, arithmetic.source),
        "norm epsilon": Fact(spec.norm_eps, arithmetic.source),
    }


def _require_no_key_bias(
    weights: Mapping[str, torch.Tensor], spec: VitSpec, source: str, *, where: str
) -> None:
    """Refuse a bias of keys in a network whose keys have none."""
    if spec.key_bias or not spec.qkv_bias:
        return
    for block in range(spec.depth):
        bias = weights.get(f"blocks.{block}.attn.qkv.bias")
        if bias is not None and bias.ndim == 1 and bias[spec.width : 2 * spec.width].any():
            raise CheckpointError(
                f"blocks.{block}.attn has a bias of the keys that is not zero, and according to "
                f"{source} keys have none",
                where=where,
                fix="name another architecture, or find the file that belongs to it",
            )


def require_vit(weights: Mapping[str, torch.Tensor], *, where: str) -> None:
    """Refuse tensors that are not a plain ViT's, or that have other names than timm's.

    Raises:
        CheckpointError: They are not.
    """
    tensors_unsupported(weights, where=where)
    needed = ("patch_embed.proj.weight", "pos_embed", "blocks.0.mlp.fc1.weight")
    absent = [name for name in needed if name not in weights]
    if absent and absent != ["pos_embed"]:
        raise CheckpointError(
            f"not a ViT with timm's names: {', '.join(absent)} missing, "
            f"{len(weights)} tensors found, such as {some(sorted(weights))}",
            where=where,
            fix=whose(weights)
            or "give the backbone the run was trained on, as .npz, .safetensors or .pth",
        )
    patch_weight = weights["patch_embed.proj.weight"]
    if patch_weight.ndim != 4 or patch_weight.shape[1] != 3 or not patch_weight.numel():
        raise CheckpointError(
            f"patch_embed.proj.weight has shape {tuple(patch_weight.shape)}, wanted (C, 3, h, w)",
            where=where,
            fix="only backbones for three-channel images work",
        )
    _check_dimensions(weights, where=where)


def plainly_named(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors with every layer called as in timm's plain ViTs.

    Those of its EVA family have other names, see `_eva_names`. Of a gated MLP the two layers are
    called fc1 and fc2: timm's SwiGLU has gate and values apart, as `fc1_g` and `fc1_x`; here fc1
    gives both, gate first, as in timm's SwiGLUPacked. DINOv2's release calls that one `w12`, and
    fc2 `w3`.
    """
    found = {
        re.sub(r"\.mlp\.w(12|3)\.", lambda w: f".mlp.fc{1 if w[1] == '12' else 2}.", name): tensor
        for name, tensor in _eva_names.as_vits(weights).items()
    }
    for name in list(found):
        gate = re.fullmatch(r"(.+\.mlp\.fc1)_g(\.\w+)", name)
        values = None if gate is None else f"{gate[1]}_x{gate[2]}"
        if gate and values in found and found[values].shape == found[name].shape:
            found[f"{gate[1]}{gate[2]}"] = torch.cat([found.pop(name), found.pop(values)])
    return found


def _hidden(weights: Mapping[str, torch.Tensor], *, where: str) -> int:
    """Return the width of what fc2 reads: as many channels as fc1 gives, or half, if it is gated.

    Raises:
        CheckpointError: It is neither.
    """
    given = weights["blocks.0.mlp.fc1.weight"].shape[0]
    second = weights.get("blocks.0.mlp.fc2.weight")
    if second is None or second.ndim != 2:
        return given  # `check_weights` says what is wrong
    if second.shape[1] not in (given, given / 2):
        raise CheckpointError(
            f"blocks.0.mlp.fc1 gives {given} channels, and blocks.0.mlp.fc2 reads "
            f"{second.shape[1]}: neither all of them nor, gated, half",
            where=where,
            fix="the file is damaged, or of another network",
        )
    return int(second.shape[1])


def _depth(weights: Mapping[str, torch.Tensor], *, where: str) -> int:
    blocks = {int(found[1]) for name in weights if (found := re.match(r"blocks\.(\d+)\.", name))}
    if blocks != set(range(len(blocks))):
        raise CheckpointError(
            f"blocks 0 to {max(blocks)} are not all there: {len(blocks)} found",
            where=where,
            fix="give the whole backbone",
        )
    return len(blocks)


_ARGUMENTS = {
    "patch": "patch_size",
    "width": "embed_dim",
    "depth": "depth",
    "hidden": "mlp_ratio",
    "prefix": "class_token, reg_tokens",
    "absolute_positions": "use_abs_pos_emb",
    "qkv_bias": "qkv_bias",
    "pre_norm": "pre_norm",
    "patch_bias": "pre_norm",
    "layer_scale": "init_values",
    "qk_norm": "qk_norm",
    "attention_norm": "scale_attn_norm, scale_attn_inner",
    "mlp_norm": "scale_mlp_norm, scale_mlp",
    "gated": "mlp_layer",
    "pool_norm": "fc_norm",
    "final_norm": "final_norm",
}
"""Fields of `VitSpec` that tensors show, and timm's arguments that decide them."""


def _refuse_contradiction(seen: VitSpec, named: Fact[VitSpec], *, where: str) -> None:
    for field, argument in _ARGUMENTS.items():
        found, said = getattr(seen, field), getattr(named.value, field)
        if found != said:
            raise CheckpointError(
                f"{field.replace('_', ' ')} is {_words(said)} according to {named.source} "
                f"({argument}), but {_words(found)} in the tensors",
                where=where,
                fix="name another architecture, or find the file that belongs to it"
                if named.source.startswith("--")
                else f"correct {argument} in {named.source}, or find the file that belongs to it",
            )
    classes = named.value.classes
    if seen.classes and seen.classes != classes:  # a file without a head may come from any
        raise CheckpointError(
            f"{named.source} says num_classes {classes}, head.weight in the tensors has "
            f"{seen.classes}",
            where=where,
            fix=f"correct num_classes in {named.source}, or find the file that belongs to it",
        )


def _words(value: object) -> str:
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "none"
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)


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
        if name in weights and not weights[name].numel():
            raise CheckpointError(
                f"{name} is empty: {tuple(weights[name].shape)}",
                where=where,
                fix="the file is damaged; fetch it again",
            )


def prefix_of(
    weights: Mapping[str, torch.Tensor],
) -> tuple[Literal["cls", "dist", "reg"], ...]:
    """Return the kinds of the tokens in front of the patches, in order."""
    prefix: list[Literal["cls", "dist", "reg"]] = []
    if "cls_token" in weights:
        prefix.append("cls")
    if "dist_token" in weights:
        prefix.append("dist")
    if "reg_token" in weights:
        prefix += ["reg"] * weights["reg_token"].shape[1]
    return tuple(prefix)


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
    floats = {name: weights[name].float() for name in wanted}
    beyond = sorted(name for name, tensor in floats.items() if not tensor.isfinite().all())
    if beyond:
        kind = str(weights[beyond[0]].dtype).removeprefix("torch.")
        raise CheckpointError(
            f"{beyond[0]} holds values in {kind} that float32 cannot",
            where=where,
            fix="give weights whose values float32 can hold: up to 3.4e38",
        )
    return floats


def compare_shapes(
    found: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]]
) -> str:
    """Return one sentence on missing, unexpected and misshapen tensors; empty when all fit."""
    parts = []
    missing = sorted(set(wanted) - set(found))
    unexpected = sorted(set(found) - set(wanted))
    misshapen = sorted(n for n in set(found) & set(wanted) if found[n] != wanted[n])
    if missing:
        parts.append(f"{len(missing)} missing ({some(missing)})")
    if unexpected:
        parts.append(f"{len(unexpected)} unexpected ({some(unexpected)})")
    if misshapen:
        shapes = [f"{n} {found[n]}, wanted {wanted[n]}" for n in misshapen]
        parts.append(f"{len(misshapen)} misshapen ({some(shapes)})")
    return "; ".join(parts)


def some(names: list[str], most: int = 3) -> str:
    """Return the first few names, for a sentence."""
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")
