"""Hugging Face's `config.json` of a vision transformer: every key obeyed, or refused by name."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from engines.errors import CheckpointError
from fpet_export.model.rotary import Rotary
from fpet_export.model.vit_spec import Activation, Pool, VitSpec

NAME = "config.json"
TIMM_WRAPPER = "timm_wrapper"
"""`model_type` of a configuration that is timm's after all."""

_ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "silu": "silu",
}

_SHARED: dict[str, Any] = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "hidden_act": "gelu",
    "image_size": 224,
    "num_channels": 3,
    "qkv_bias": True,
}
_VIT = {**_SHARED, "intermediate_size": 3072, "layer_norm_eps": 1e-12, "patch_size": 16}
_DINO = {
    **_SHARED,
    "mlp_ratio": 4,
    "layer_norm_eps": 1e-6,
    "patch_size": 14,
    "use_swiglu_ffn": False,
}
_V3 = "dinov3_vit"
_DINO_V3 = {
    **{key: value for key, value in _SHARED.items() if key != "qkv_bias"},
    "hidden_size": 384,
    "num_attention_heads": 6,
    "intermediate_size": 1536,
    "layer_norm_eps": 1e-5,
    "patch_size": 16,
    "num_register_tokens": 0,
    "rope_theta": 100.0,
    "use_gated_mlp": False,
    "query_bias": True,
    "key_bias": False,
    "value_bias": True,
    "proj_bias": True,
    "mlp_bias": True,
}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "vit": _VIT,
    "deit": _VIT,
    "dinov2": _DINO,
    "dinov2_with_registers": {**_DINO, "patch_size": 16, "num_register_tokens": 4},
    "clip": {**_VIT, "layer_norm_eps": 1e-5, "patch_size": 32, "hidden_act": "quick_gelu"},
    "siglip": {**_VIT, "layer_norm_eps": 1e-6, "hidden_act": "gelu_pytorch_tanh"},
    _V3: _DINO_V3,
}
_ALONE = "_vision_model"
"""End of the `model_type` of an image tower alone, which has the keys of the tower."""
_DEFAULTS |= {f"{kind}{_ALONE}": _DEFAULTS[kind] for kind in ("clip", "siglip")}
"""What transformers' own classes take for a key that is not there."""

_TOWERS = {
    "clip": {"initializer_factor", "logit_scale_init_value", "projection_dim", "text_config",
             "text_config_dict"},
    "siglip": {"initializer_factor", "text_config"},
}  # fmt: skip
"""Models of image and text: the network's keys lie in `vision_config`, these are of no account."""

_OF_TOWER = {"attention_dropout", "projection_dim", "vision_use_head"}
_GENERATION = {
    "bos_token_id", "decoder_start_token_id", "diversity_penalty", "eos_token_id",
    "length_penalty", "max_length", "min_length", "no_repeat_ngram_size", "num_beam_groups",
    "num_beams", "num_return_sequences", "pad_token_id", "prefix", "repetition_penalty",
    "sep_token_id", "temperature", "tf_legacy_loss", "tokenizer_class", "top_k", "top_p",
    "transformers_version", "typical_p", "use_bfloat16",
}  # fmt: skip
"""Keys of text generation, which transformers 4 wrote into the configuration of every tower."""

_OF_TOWERS = dict.fromkeys(_TOWERS, _OF_TOWER | _GENERATION)
_OF_TOWERS |= {
    f"{kind}{_ALONE}": keys | {"initializer_factor"} for kind, keys in _OF_TOWERS.items()
}

_OF_TRAINING = {
    _V3: {"attention_dropout", "pos_embed_jitter", "pos_embed_rescale", "pos_embed_shift"},
}
"""Keys of one kind that change no answer: they move the positions in training alone."""

_REG = "dinov2_with_registers"
_RESAMPLES = ("dinov2", _REG)
_WITHOUT_REGISTERS = (4, 52)
"""From this version on registers are not part of the mean that a head of DINOv2 reads."""

_MOST = 2**20
"""No extent of a network is larger."""

_CLASSES: dict[str, tuple[str, Pool]] = {
    "ViTForImageClassification": ("vit", "class"),
    "ViTModel": ("vit", "class"),
    "DeiTForImageClassification": ("deit", "class"),
    "DeiTForImageClassificationWithTeacher": ("deit", "class+dist"),
    "DeiTModel": ("deit", "class"),
    "Dinov2ForImageClassification": ("dinov2", "class+mean"),
    "Dinov2Model": ("dinov2", "class+mean"),
    "Dinov2WithRegistersForImageClassification": ("dinov2_with_registers", "class+mean"),
    "Dinov2WithRegistersModel": ("dinov2_with_registers", "class+mean"),
    "CLIPForImageClassification": ("clip", "mean"),
    "SiglipForImageClassification": ("siglip", "mean"),
    "CLIPVisionModel": ("clip_vision_model", "class"),
    "SiglipVisionModel": ("siglip_vision_model", "attention"),
    "DINOv3ViTModel": (_V3, "class"),
}
"""Classes of transformers: the `model_type` they go with, and what their heads read."""

_NOTES = {
    "_attn_implementation_autoset", "_commit_hash", "_name_or_path", "_num_labels",
    "apply_layernorm", "architectures", "attention_probs_dropout_prob", "attn_implementation",
    "chunk_size_feed_forward", "drop_path_rate", "dtype", "encoder_stride", "finetuning_task",
    "hidden_dropout_prob", "id2label", "initializer_factor", "initializer_range", "label2id",
    "layerscale_value", "model_type", "num_labels", "out_features", "out_indices",
    "output_attentions", "output_hidden_states", "pooler_act", "pooler_output_size",
    "problem_type", "reshape_hidden_states", "return_dict", "stage_names", "tie_word_embeddings",
    "torch_dtype", "torchscript", "transformers_version", "use_mask_token",
}  # fmt: skip
"""Keys that change no answer: of training, of other tasks, and of how the library runs."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class HfConfig:
    """What a `config.json` of transformers says.

    Attributes:
        path: The file.
        model_type: The kind of network.
        spec: The network, on images of `image_size`; `classes` is unknown (0) here.
        reads: What the head reads, in words, where versions of the library differ.
        resamples: Whether the library takes images of any size, and resamples its positions if it
            has learned ones.
        labels: `id2label`, where the file has it.
        classes: `num_labels`, where the file has it.
    """

    path: Path
    model_type: str
    spec: VitSpec
    reads: str
    resamples: bool
    labels: object | None
    classes: object | None


def is_of_transformers(folder: Path) -> bool:
    """Whether a folder's `config.json` is one of transformers, and not timm's."""
    try:
        document: Any = json.loads((folder / NAME).read_text("utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return False
    if not isinstance(document, dict) or "architecture" in document:
        return False
    return document.get("model_type") != TIMM_WRAPPER and "model_type" in document


def read_config(path: Path) -> HfConfig:
    """Read the configuration.

    Raises:
        CheckpointError: It cannot be read, is of another network, or asks for what is not done.
    """
    try:
        document: Any = json.loads(path.read_text("utf-8-sig"), object_pairs_hook=_once)
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{NAME} cannot be read: {error}", where=str(path), fix="fetch the folder again"
        ) from error
    kind = document["model_type"]
    defaults = _DEFAULTS.get(kind) if isinstance(kind, str) else None
    if defaults is None:
        raise CheckpointError(
            f"model_type is {kind!r}; of transformers' models {', '.join(_DEFAULTS)} are read",
            where=str(path),
            fix="give the same model as timm has it, if it does, or another one",
        )
    network = document if kind not in _TOWERS else _tower(document, kind, path)
    own = (*_OF_TOWERS.get(kind, ()), *_OF_TRAINING.get(kind, ()))
    _require_known(network, {*defaults, *_NOTES, *own}, kind, path)
    if kind.endswith(_ALONE) and network.get("vision_use_head", True) is not True:
        raise _wrong(path, "vision_use_head", network["vision_use_head"], "true")
    values = {key: network.get(key, default) for key, default in defaults.items()}
    return HfConfig(
        path=path,
        model_type=kind,
        spec=_spec(values, kind, _pool(document, kind, path), path),
        reads=_reads(document, kind),
        resamples=kind in _RESAMPLES or kind == _V3,
        labels=_labels(document, path),
        classes=document.get("num_labels"),
    )


def _reads(document: Mapping[str, Any], kind: str) -> str:
    """Return whose rule for the head is followed, and whether the file is from before it."""
    code = f"transformers' code of {kind}"
    saved = re.match(r"(\d+)\.(\d+)", str(document.get("transformers_version", "")))
    if kind == _REG and saved and (int(saved[1]), int(saved[2])) < _WITHOUT_REGISTERS:
        version = document["transformers_version"]
        return (
            f"{code} since 4.52; the file is of {version}, whose mean took the registers in, so a "
            "head that was tuned with it answers a little differently"
        )
    return code


def _require_known(document: Mapping[str, Any], known: set[str], kind: str, path: Path) -> None:
    for key, value in document.items():
        if key not in known and value not in (None, False, [], {}):
            raise _wrong(path, key, value, f"no key beyond those of transformers' {kind}")


def _tower(document: Mapping[str, Any], kind: str, path: Path) -> dict[str, Any]:
    """Return `vision_config`; refuse what transformers would put in the place of its values."""
    nested = {"vision_config", "vision_config_dict"}
    _require_known(document, _NOTES | _TOWERS[kind] | nested, kind, path)
    found = document.get("vision_config")
    if not isinstance(found, dict):
        raise _wrong(path, "vision_config", found, "the configuration of the image tower")
    other = document.get("vision_config_dict")
    if other is not None:
        same = isinstance(other, dict) and all(found.get(k, v) == v for k, v in other.items())
        if not same:
            raise _wrong(path, "vision_config_dict", other, f"what vision_config says: {found}")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found and found[key] != value:
            raise ValueError(f"{key} is there twice, as {found[key]!r} and {value!r}")
        found[key] = value
    return found


def _pool(document: Mapping[str, Any], kind: str, path: Path) -> Pool:
    """Return what the head reads, from the class that the file names."""
    named = document.get("architectures")
    one = named[0] if isinstance(named, list) and len(named) == 1 else None
    if not isinstance(one, str) or one not in _CLASSES:
        known = [name for name, (of, _) in _CLASSES.items() if of == kind and "For" in name]
        raise _wrong(path, "architectures", named, f"a classifier: {' or '.join(known)}")
    of, pool = _CLASSES[one]
    if of != kind:
        raise _wrong(path, "architectures", named, f"a class of model_type {kind!r}")
    return pool


def _labels(document: Mapping[str, Any], path: Path) -> object | None:
    """Return `id2label`; refuse a `label2id` or `num_labels` that says something else."""
    labels, back = document.get("id2label"), document.get("label2id")
    count = document.get("num_labels")
    if isinstance(labels, dict):
        if count is not None and count != len(labels):
            raise _wrong(path, "num_labels", count, f"{len(labels)}, as many as id2label names")
        names = list(labels.values())
        distinct = len({*map(str, names)}) == len(names)
        turned = {str(name): str(index) for index, name in labels.items()}
        stated = {str(k): str(v) for k, v in back.items()} if isinstance(back, dict) else turned
        if distinct and stated != turned:
            raise _wrong(path, "label2id", back, f"id2label turned round, which is {labels}")
    return labels


def _spec(values: Mapping[str, Any], kind: str, pool: Pool, path: Path) -> VitSpec:
    alone, kind = kind.endswith(_ALONE), kind.removesuffix(_ALONE)
    width, depth, heads = (
        _count(values, key, path)
        for key in ("hidden_size", "num_hidden_layers", "num_attention_heads")
    )
    if width % heads:
        raise _wrong(path, "num_attention_heads", heads, f"a divisor of hidden_size {width}")
    if type(values["num_channels"]) is not int or values["num_channels"] != 3:
        raise _wrong(path, "num_channels", values["num_channels"], "3")
    for key in ("use_swiglu_ffn", "use_gated_mlp", "qkv_bias", "query_bias", "key_bias"):
        if type(values.get(key, False)) is not bool:
            raise _wrong(path, key, values[key], "true or false")
    swiglu = values.get("use_swiglu_ffn", False)
    activation = values["hidden_act"]
    if not isinstance(activation, str) or activation not in _ACTIVATIONS:
        raise _wrong(path, "hidden_act", activation, " or ".join(_ACTIVATIONS))
    epsilon = values["layer_norm_eps"]
    if type(epsilon) not in (int, float) or not 0 <= epsilon < 1:
        raise _wrong(path, "layer_norm_eps", epsilon, "a small number from 0")
    image, patch = _size(values, "image_size", path), _size(values, "patch_size", path)
    if image[0] < patch[0] or image[1] < patch[1]:
        raise _wrong(path, "image_size", values["image_size"], "at least one patch")
    if kind in _RESAMPLES and image[0] // patch[0] != image[1] // patch[1]:
        wanted = "a square: transformers' code of this model reads the positions as one"
        raise _wrong(path, "image_size", values["image_size"], wanted)
    if kind in _TOWERS and (image[0] != image[1] or patch[0] != patch[1]):
        raise _wrong(path, "image_size", values["image_size"], "a square, as the library has it")
    has_registers = "num_register_tokens" in values
    registers = _count(values, "num_register_tokens", path, least=0) if has_registers else 0
    rotary = _rotary(values, width // heads, path) if kind == _V3 else None
    prefix: list[Literal["cls", "dist", "reg"]] = [] if kind == "siglip" else ["cls"]
    if kind == "deit":
        prefix.append("dist")
    prefix += ["reg"] * registers
    return VitSpec(
        image=image,
        patch=patch,
        width=width,
        depth=depth,
        heads=heads,
        hidden=_hidden(values, path),
        classes=0,
        prefix=tuple(prefix),
        pool=pool,
        absolute_positions=rotary is None,
        position_covers_prefix=kind != _REG,
        rotary=rotary,
        norm_eps=float(epsilon),
        activation="silu" if swiglu else _ACTIVATIONS[activation],
        gated=swiglu or values.get("use_gated_mlp", False),
        qkv_bias=values["qkv_bias"] if rotary is None else values["query_bias"],
        key_bias=values.get("key_bias", True),
        layer_scale=kind in _RESAMPLES or kind == _V3,
        pre_norm=kind == "clip",
        patch_bias=kind != "clip",
        pool_norm=kind == "clip" and alone,
        final_norm=kind != "clip" or alone,
    )


def _rotary(values: Mapping[str, Any], head_width: int, path: Path) -> Rotary:
    """Return by what DINOv3 turns queries and keys; refuse biases that the network has not."""
    for key, wanted in (
        ("value_bias", values["query_bias"]),
        ("proj_bias", True),
        ("mlp_bias", True),
    ):
        if values[key] is not wanted:
            raise _wrong(path, key, values[key], f"{str(wanted).lower()}: others are not read")
    if values["key_bias"] and not values["query_bias"]:
        raise _wrong(path, "key_bias", True, "false where queries have no bias")
    base = values["rope_theta"]
    if type(base) not in (int, float) or not math.isfinite(base) or base <= 0:
        raise _wrong(path, "rope_theta", base, "a number above 0")
    if head_width % 4:
        heads = values["num_attention_heads"]
        raise _wrong(path, "num_attention_heads", heads, "heads of a width that 4 divides")
    return Rotary(pairs="halves", coordinates="centred", temperature=float(base))


def _hidden(values: Mapping[str, Any], path: Path) -> int:
    """Return the inner width of the MLP, which the DINOv2 models state as a ratio."""
    if "mlp_ratio" not in values:
        return _count(values, "intermediate_size", path)
    ratio = values["mlp_ratio"]
    if type(ratio) not in (int, float) or not math.isfinite(ratio) or ratio <= 0:
        raise _wrong(path, "mlp_ratio", ratio, "a number above 0")
    hidden = int(values["hidden_size"] * ratio)
    if values["use_swiglu_ffn"]:  # as the library: two thirds of it, in whole eights
        return (int(hidden * 2 / 3) + 7) // 8 * 8
    return hidden


def _count(values: Mapping[str, Any], key: str, path: Path, least: int = 1) -> int:
    value = values[key]
    if type(value) is not int or not least <= value <= _MOST:
        raise _wrong(path, key, value, f"a whole number from {least}")
    return value


def _size(values: Mapping[str, Any], key: str, path: Path) -> tuple[int, int]:
    value = values[key]
    sides = value if isinstance(value, list) else [value, value]
    if len(sides) != 2 or not all(type(side) is int and 1 <= side <= _MOST for side in sides):
        raise _wrong(path, key, value, "a whole number, or [height, width]")
    return sides[0], sides[1]


def _wrong(path: Path, key: str, value: object, wanted: str) -> CheckpointError:
    return CheckpointError(
        f"{key} in {NAME} is {value!r}, wanted {wanted}",
        where=str(path),
        fix="give a model that this toolkit runs (docs/checkpoints.md), or correct the file if "
        "it is wrong",
    )
