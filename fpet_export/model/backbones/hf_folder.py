"""A folder of Hugging Face's transformers: `config.json` and the weights beside it.

ViT, DeiT (with one head or with a teacher's second), DINOv2 with and without registers, and the
image classifiers and image towers of CLIP and SigLIP. Names of both generations become timm's, see
`_hf_names`; q, k and v are joined. Every tensor is read exactly once, belongs to what the
classifier does not read (which `inspect` says), or is refused by name.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from engines.errors import CheckpointError, UsageError
from fpet_export.model import state_dicts, torch_files
from fpet_export.model.backbones import (
    Backbone,
    BackboneOptions,
    _hf_config,
    _hf_names,
    _stated_pixels,
)
from fpet_export.model.backbones._hf_config import HfConfig
from fpet_export.model.backbones._hidden_facts import POOLS
from fpet_export.model.backbones._labels import labels_of
from fpet_export.model.backbones._names import check_weights, plainly_named, some
from fpet_export.model.facts import Fact, reconcile
from fpet_export.model.vit_spec import VitSpec

WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""Where the weights lie, in the order in which transformers looks for them."""

Tensors = dict[str, torch.Tensor]


def recognises(text: str) -> bool:
    """Whether `text` is a folder with a configuration of transformers."""
    return _hf_config.is_of_transformers(Path(text)) if text else False


def read(text: str, options: BackboneOptions) -> Backbone:
    """Read configuration, weights and processor, strictly."""
    folder = Path(text)
    config = _hf_config.read_config(folder / _hf_config.NAME)
    path = weights_in(folder)
    tensors, files = _load(path)
    facts: dict[str, Fact[Any]] = {"model type": Fact(config.model_type, _hf_config.NAME)}
    others = [name for name in WEIGHTS if name != path.name and (folder / name).is_file()]
    if others:
        facts["weights file"] = Fact(path.name, f"transformers takes it before {', '.join(others)}")
    kinds = sorted({str(t.dtype).removeprefix("torch.") for t in tensors.values()})
    if kinds != ["float32"]:
        facts["stored as"] = Fact(" and ".join(kinds), path.name)
    weights, left_out = _translated(tensors, config.spec, where=str(path))
    if left_out:
        facts["left out"] = Fact(", ".join(left_out), "no classifier reads it")
    image = _image(config, folder, options)
    spec = _agreed(config, weights, options, where=str(path))
    weights = _with_positions(weights, spec, image.value, config, where=str(path))
    spec = dataclasses.replace(spec, image=image.value)
    if spec.classes and config.classes not in (None, spec.classes):
        raise CheckpointError(
            f"num_labels in {_hf_config.NAME} is {config.classes!r}, but the head has "
            f"{spec.classes} rows",
            where=str(config.path),
            fix="correct it, or find the weights that belong to it",
        )
    labels, said = None, dict[str, Fact[Any]]()
    if config.labels is not None and spec.classes:
        key = f"id2label in {_hf_config.NAME}"
        labels, said = labels_of(config.labels, spec.classes, key=key, where=str(config.path))
    prepared, source, processor, resize = _stated_pixels.of_file(
        path, spec.image, None, options, whole=True
    )
    by = f"{config.model_type}'s {_hf_config.NAME}"
    return Backbone(
        spec=spec,
        weights=check_weights(weights, spec, where=str(path)),
        source=str(folder),
        quality="trained",
        preprocessing=prepared,
        normalisation=source,
        files=(*files, config.path, *processor),
        facts=facts
        | {
            "heads": Fact(spec.heads, by),
            "image": Fact("x".join(map(str, spec.image)), image.source),
            "pool": Fact(spec.pool, config.reads if spec.pool == config.spec.pool else "--pool"),
            "activation": Fact(spec.activation, by),
            **({"positions": Fact(spec.rotary.describe(), by)} if spec.rotary else {}),
            "norm epsilon": Fact(spec.norm_eps, by),
        }
        | said
        | resize,
        labels=labels,
    )


def weights_in(folder: Path) -> Path:
    """Return the file that transformers takes the weights of a folder from.

    Raises:
        CheckpointError: There is none.
    """
    for name in WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    held = sorted(path.name for path in folder.iterdir() if path.is_file())
    raise CheckpointError(
        f"no weights lie beside config.json, only {', '.join(held[:5])}",
        where=str(folder),
        fix=f"fetch {WEIGHTS[0]} or {WEIGHTS[2]} into this folder",
    )


def parts_of(weights: Path) -> tuple[Path, ...]:
    """Return the files that an index of weights lists; none for another file.

    Raises:
        CheckpointError: The index cannot be read.
    """
    if weights.suffix != ".json":
        return ()
    return tuple(weights.with_name(name) for name in sorted(set(_index(weights).values())))


def _load(path: Path) -> tuple[Tensors, tuple[Path, ...]]:
    """Return the tensors of a file, or of all files that an index lists, and these files."""
    if path.suffix != ".json":
        return _tensors(path), (path,)
    wanted = _index(path)
    tensors: Tensors = {}
    for name in sorted(set(wanted.values())):
        found = _tensors(path.with_name(name))
        listed = {tensor for tensor, file in wanted.items() if file == name}
        if set(found) != listed:
            odd = sorted(set(found) ^ listed)
            raise CheckpointError(
                f"{name} does not hold the tensors that {path.name} lists: {some(odd)}",
                where=str(path),
                fix="fetch the folder again",
            )
        tensors |= found
    return tensors, (path, *parts_of(path))


def _index(path: Path) -> dict[str, str]:
    try:
        document: Any = json.loads(path.read_text("utf-8-sig"))
        wanted = document["weight_map"]
        if not isinstance(wanted, dict) or not wanted:
            raise ValueError("weight_map is no table of tensors")
        for name in wanted.values():
            if not isinstance(name, str) or Path(name).name != name:
                raise ValueError(f"weight_map names {name!r}, which is no file beside it")
    except (OSError, ValueError, RecursionError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path.name} cannot be read: {error}", where=str(path), fix="fetch the folder again"
        ) from error
    return dict(wanted)


def _tensors(path: Path) -> Tensors:
    content = torch_files.read_content(path)
    if not isinstance(content, dict) or not content:
        raise CheckpointError(
            f"wanted a dictionary of tensors, found {type(content).__name__}",
            where=str(path),
            fix="fetch the folder again",
        )
    odd = [name for name, value in content.items() if not isinstance(value, torch.Tensor)]
    if odd:
        raise CheckpointError(
            f"{odd[0]!r} is {type(content[odd[0]]).__name__}, wanted tensors alone",
            where=str(path),
            fix="save the model with transformers: model.save_pretrained(folder)",
        )
    state_dicts.check_kinds(content, path)
    return dict(content)


def _translated(tensors: Tensors, spec: VitSpec, *, where: str) -> tuple[Tensors, list[str]]:
    """Return the tensors by timm's names, q, k and v joined, and the names of those left out.

    Raises:
        CheckpointError: A name is unknown, two are one tensor, or q, k and v do not go together.
    """
    found: dict[str, str] = {}
    unknown: list[str] = []
    left_out: list[str] = []
    for tensor in tensors:
        name = _name_of(tensor, spec)
        if name in ("norm.weight", "norm.bias") and not spec.final_norm:
            left_out.append(tensor)
        elif name is None:
            (unknown if _hf_names.unread(tensor) is None else left_out).append(tensor)
        elif name in found:
            raise CheckpointError(
                f"{found[name]} and {tensor} are one tensor of the network under two names",
                where=where,
                fix="keep the one that was trained",
            )
        else:
            found[name] = tensor
    if unknown:
        raise CheckpointError(
            f"{len(unknown)} tensors are none of this network: {some(sorted(unknown))}",
            where=where,
            fix="give the folder as transformers saved it; adapters, and decoders of other tasks, "
            "are not read here",
        )
    weights = {name: tensors[tensor] for name, tensor in found.items()}
    for block in range(spec.depth):
        for leaf in ("weight", "bias") if spec.qkv_bias else ("weight",):
            if leaf == "bias" and not spec.key_bias:
                _add_key_bias(weights, f"blocks.{block}.attn", spec.width, where=where)
            _join(weights, f"blocks.{block}.attn", leaf, spec.width, where=where)
    if "reg" not in spec.prefix and not weights.get("reg_token", torch.ones(1)).numel():
        del weights["reg_token"]  # DINOv3 keeps an empty one where it has no registers
    _split_pooling(weights, spec)
    weights = plainly_named(weights)
    for name, dimensions in (("cls_token", 3), ("pos_embed", 3)):
        if name in weights and weights[name].ndim < dimensions:  # CLIP's have fewer
            weights[name] = weights[name].reshape(1, -1, weights[name].shape[-1])
    return weights, sorted(left_out)


def _name_of(tensor: str, spec: VitSpec) -> str | None:
    """Return timm's name of a tensor of this network; None if it has none."""
    name = _hf_names.name_of(tensor)
    if spec.gated:
        name = _hf_names.name_in_gated(tensor) or name
    if spec.pool == "attention" and name is None:
        return _hf_names.name_in_pooling(tensor)
    if spec.pool_norm and name in ("norm.weight", "norm.bias"):
        return f"fc_{name}"
    return name


def _split_pooling(weights: Tensors, spec: VitSpec) -> None:
    """Cut q, k and v of the attention pooling into q and kv, as timm has them."""
    for leaf in ("weight", "bias"):
        packed = weights.get(f"attn_pool.qkv.{leaf}")
        if packed is not None and len(packed) == 3 * spec.width:
            del weights[f"attn_pool.qkv.{leaf}"]
            weights[f"attn_pool.q.{leaf}"] = packed[: spec.width]
            weights[f"attn_pool.kv.{leaf}"] = packed[spec.width :]


def _add_key_bias(weights: Tensors, attention: str, width: int, *, where: str) -> None:
    """Give keys without a bias one of zero, beside those of queries and values."""
    if f"{attention}.k.bias" in weights:
        raise CheckpointError(
            f"{attention}.k has a bias, against key_bias in {_hf_config.NAME}",
            where=where,
            fix="correct key_bias, or find the weights that belong to it",
        )
    weights[f"{attention}.k.bias"] = torch.zeros(width)


def _join(weights: Tensors, attention: str, leaf: str, width: int, *, where: str) -> None:
    names = [f"{attention}.{part}.{leaf}" for part in "qkv"]
    shape = (width, width) if leaf == "weight" else (width,)
    problems = [
        f"{name} is missing" if name not in weights else f"{name} is {tuple(weights[name].shape)}"
        for name in names
        if name not in weights or weights[name].shape != shape
    ]
    if problems:
        raise CheckpointError(
            f"{'; '.join(problems)}; wanted {shape} for each of q, k and v",
            where=where,
            fix="fetch the folder again; or its config.json belongs to other weights",
        )
    weights[f"{attention}.qkv.{leaf}"] = torch.cat([weights.pop(name) for name in names])


def _image(config: HfConfig, folder: Path, options: BackboneOptions) -> Fact[tuple[int, int]]:
    """Return the size of the images; one that the weights were not trained on is resampled to."""
    claims = []
    if options.image is not None:
        claims.append(Fact(options.image, "--image"))
    processor = None if options.own_pixels else _stated_pixels.input_size(folder)
    if processor is not None:
        claims.append(processor)
    own = Fact(config.spec.image, f"image_size in {_hf_config.NAME}")
    if config.resamples and not claims:
        height, width = config.spec.image
        raise CheckpointError(
            f"nothing says the size of the images: {config.model_type} takes any, and "
            f"{_hf_config.NAME} speaks of {height}x{width}",
            where=str(folder),
            fix="fetch preprocessor_config.json into the folder, or add --image HxW, for example "
            f"--image {height}x{width}",
        )
    asked = options.image is not None and options.image != own.value
    if not config.resamples and not asked:
        claims.append(own)
    fact = reconcile("the image size", claims, where=str(folder))
    assert fact is not None, "the configuration has one"
    if asked and config.spec.absolute_positions and config.spec.grid[0] != config.spec.grid[1]:
        raise CheckpointError(
            f"--image says {fact.value[0]}x{fact.value[1]}, and transformers' code reads the "
            f"positions of {own.value[0]}x{own.value[1]} as a square when it resamples them",
            where=str(folder),
            fix="leave --image out",
        )
    if any(side % patch for side, patch in zip(fact.value, config.spec.patch, strict=True)):
        raise CheckpointError(
            f"images of {fact.value[0]}x{fact.value[1]} according to {fact.source} are no whole "
            f"number of patches of {config.spec.patch[0]}x{config.spec.patch[1]}",
            where=str(folder),
            fix="correct it to the size the model was trained with",
        )
    if asked and not config.resamples:
        how = "resampled as interpolate_pos_encoding=True does"
        source = f"{fact.source}; the positions of {own.value[0]}x{own.value[1]} are {how}"
        return Fact(fact.value, source)
    return fact


def _agreed(
    config: HfConfig, weights: Mapping[str, torch.Tensor], options: BackboneOptions, *, where: str
) -> VitSpec:
    """Return the network with its classes; refuse options that contradict the configuration."""
    spec = config.spec
    said: dict[str, tuple[object, object]] = {"--heads": (options.heads, spec.heads)}
    if options.pool is not None:
        if options.pool not in POOLS:
            raise UsageError(f"pool is {options.pool!r}", where="--pool", fix="give token or avg")
        chosen: Any = POOLS[options.pool]
        chooses = "cls" in spec.prefix and spec.pool != "attention" and not spec.pool_norm
        if options.head == "features" and "head.weight" not in weights and chooses:
            spec = dataclasses.replace(spec, pool=chosen)  # no classifier has settled it
        said["--pool"] = (chosen, spec.pool)
    if options.run_pool is not None:
        said[options.run_pool.source] = (options.run_pool.value, spec.pool)
    if options.arch is not None:
        said["--arch"] = (options.arch, config.model_type)
    for option, (value, own) in said.items():
        if value not in (None, own):
            raise CheckpointError(
                f"{option} says {value}, {_hf_config.NAME} says {own}",
                where=where,
                fix=f"leave {option} out"
                if option.startswith("--")
                else "give the run's own backbone",
            )
    head = weights.get("head.weight")
    return dataclasses.replace(spec, classes=0 if head is None or head.ndim != 2 else len(head))


def _with_positions(
    weights: Tensors, spec: VitSpec, image: tuple[int, int], config: HfConfig, *, where: str
) -> Tensors:
    """Return the weights with positions for an image, where the prefix has its own in its token.

    The rows of registers have no positions: that of the class token is added to the token itself.
    """
    positions = weights.get("pos_embed")
    covered = 1 if not spec.position_covers_prefix else len(spec.prefix)
    if positions is None or positions.shape != (1, covered + spec.patches, spec.width):
        return weights  # `check_weights` says what is wrong
    prefix, patches = positions[:, :covered], positions[:, covered:]
    if image != spec.image:
        patches = _resampled(patches, spec, image, antialias=not spec.position_covers_prefix)
    changed = dict(weights)
    if spec.position_covers_prefix:
        changed["pos_embed"] = torch.cat([prefix, patches], dim=1)
        return changed
    token = weights.get("cls_token")
    if token is not None and token.shape == prefix.shape:
        changed["cls_token"] = (token.double() + prefix.double()).float()
    changed["pos_embed"] = patches
    return changed


def _resampled(
    patches: torch.Tensor, spec: VitSpec, image: tuple[int, int], *, antialias: bool
) -> torch.Tensor:
    """Return (1, P', C) positions for images of another size, as transformers' forward makes them.

    Args:
        patches: (1, P, C), of a square grid.
        spec: The network they are of.
        image: (height, width) of the images.
        antialias: Whether the filter is widened where the grid gets smaller.
    """
    size = (image[0] // spec.patch[0], image[1] // spec.patch[1])
    grid = patches.float().reshape(1, *spec.grid, spec.width).permute(0, 3, 1, 2)
    resampled = F.interpolate(
        grid, size=size, mode="bicubic", align_corners=False, antialias=antialias
    )
    return resampled.permute(0, 2, 3, 1).reshape(1, -1, spec.width)
