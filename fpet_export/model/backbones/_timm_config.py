"""timm's `config.json` beside a file of weights: every key of it is obeyed, or refused by name.

Two layouts exist: the hub's, with `model_args` and `pretrained_cfg` inside, and a flat one, in
which the fields of `pretrained_cfg` stand at the top. timm itself builds the model that the file
describes, see `_timm_module`; what may stand where, and which entry wins, is what timm's own
reader does, but an entry that timm would ignore and that contradicts another is refused.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

from engines.errors import CheckpointError
from engines.registry import import_or_explain
from fpet_export.model.backbones import _timm_module
from fpet_export.model.facts import Fact, reconcile
from fpet_export.model.vit_spec import VitSpec

NAME = "config.json"

_WRAPPER = "timm_wrapper"
"""`model_type` of Hugging Face's wrapper around timm, whose files add keys of their own."""

_MODEL_KEYS = {"architecture", "num_classes", "num_features", "global_pool", "model_args"}
_LABEL_KEYS = {"labels", "label_names", "label_descriptions"}
_NOTES = {
    "architectures", "do_pooling", "dtype", "id2label", "initializer_range", "label2id",
    "library_name", "license", "model_type", "pipeline_tag", "problem_type", "tags", "torch_dtype",
    "transformers_version", "_name_or_path", "_commit_hash",
}  # fmt: skip
"""What such files say that changes no answer."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TimmConfig:
    """What a `config.json` says.

    Attributes:
        path: The file.
        spec: The network that timm builds of it.
        pixels: The fields of its `pretrained_cfg`: mean, std, crop and the like.
        architecture: timm's name of the network.
        labels: Class names as the file has them, and under which key; None where it has none.
    """

    path: Path
    spec: VitSpec
    pixels: dict[str, Any]
    architecture: str
    labels: Fact[object] | None


def beside(weights: Path) -> TimmConfig | None:
    """Read timm's `config.json` in the folder of a file of weights; None where there is none.

    Raises:
        CheckpointError: It cannot be read, is another program's, contradicts itself, has a key
            that timm does not know, or describes a network that this toolkit does not run.
    """
    path = weights.with_name(NAME)
    if not path.is_file():
        return None
    document = _parse(path)
    architecture = document.get("architecture")
    if not isinstance(architecture, str):
        raise _refusal(
            path,
            f"architecture is {architecture!r}: timm's configuration names its model there",
            "write the model's name into it, such as vit_base_patch16_224, or remove the file",
        )
    _timm_module.check_name(architecture, where=str(path))
    known = _timm_module.arguments_of(architecture)
    pixels = _pixels(document, known, path)
    arguments = _arguments(document, pixels, known, path)
    model = _timm_module.build(architecture, where=str(path), **arguments)
    spec = _timm_module.spec_of(model, where=str(path))
    _check_sizes(document, pixels, spec, path)
    return TimmConfig(
        path=path,
        spec=spec,
        pixels=pixels,
        architecture=architecture,
        labels=_labels(document, pixels),
    )


def _parse(path: Path) -> dict[str, Any]:
    try:
        document: Any = json.loads(path.read_text("utf-8-sig"), object_pairs_hook=_once)
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"config.json cannot be read: {error}",
            where=str(path),
            fix="correct the file; or remove it, and give --heads N and --pool token|avg",
        ) from error
    if not isinstance(document, dict):
        raise _refusal(
            path, f"it holds {type(document).__name__}, wanted an object", "mend the file"
        )
    foreign = document.get("model_type")
    if "architecture" not in document and (foreign or "hidden_size" in document):
        act = document.get("hidden_act")
        raise _refusal(
            path,
            f"model_type is {foreign!r}{f' and hidden_act {act!r}' if act else ''}: this is the "
            "configuration of Hugging Face's transformers, not timm's, and the weights beside it "
            "are read as timm's",
            "put the weights into a folder of their own, with timm's config.json if there is one",
        )
    if foreign not in (None, _WRAPPER):
        raise _refusal(
            path,
            f"model_type is {foreign!r} beside an architecture of timm",
            "keep the configuration of one program",
        )
    return document


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found and found[key] != value:
            raise ValueError(f"{key} is there twice, as {found[key]!r} and {value!r}")
        found[key] = value
    return found


def _pixels(document: dict[str, Any], known: AbstractSet[str], path: Path) -> dict[str, Any]:
    """Return the fields of `pretrained_cfg`, from where the layout keeps them."""
    fields = {field.name for field in dataclasses.fields(_pretrained_cfg())}
    inner = document.get("pretrained_cfg")
    if inner is not None and not isinstance(inner, dict):
        raise _refusal(path, f"pretrained_cfg is {inner!r}, wanted an object", "mend the file")
    top = {k: v for k, v in document.items() if k in fields - _MODEL_KEYS - _LABEL_KEYS}
    unknown = set(document) - fields - _MODEL_KEYS - _LABEL_KEYS - _NOTES - {"pretrained_cfg"}
    for section, keys in (("the top", unknown), ("pretrained_cfg", set(inner or {}) - fields)):
        for key in sorted(keys - {"global_pool"}):
            if key in known:
                fix = f"move {key} into model_args, where timm reads it, or remove it"
            else:
                fix = f"remove {key} if it says nothing about the model"
            value = document.get(key, (inner or {}).get(key))
            what = f"{key} is {value!r} in {section} of the file, where timm has no such key"
            raise _refusal(path, what, fix)
    for key, value in top.items():
        if inner is not None and inner.get(key, value) != value:
            raise _refusal(
                path,
                f"{key} is {value!r} at the top of the file, but {inner[key]!r} in pretrained_cfg",
                f"keep only the right {key}",
            )
    return {key: value for key, value in {**top, **(inner or {})}.items() if value is not None}


def _labels(document: dict[str, Any], pixels: dict[str, Any]) -> Fact[object] | None:
    """Return the class names, from the first place that has some; names before descriptions."""
    for key in ("label_names", "label_descriptions", "labels"):
        for section in (pixels, document):
            if section.get(key) is not None:
                return Fact(section[key], f"{key} in {NAME}")
    return None


def _arguments(
    document: dict[str, Any], pixels: dict[str, Any], known: AbstractSet[str], path: Path
) -> dict[str, Any]:
    """Return what timm's constructor is called with, of the arguments that it knows."""
    given = document.get("model_args")
    given = {} if given is None else given
    if not isinstance(given, dict):
        raise _refusal(path, f"model_args is {given!r}, wanted an object", "mend the file")
    for key, value in given.items():
        if key not in known:
            raise _refusal(
                path,
                f"model_args has {key} = {value!r}, no argument of timm's "
                f"{document['architecture']}",
                f"remove {key} if it says nothing about the model, or give another backbone",
            )
    arguments = {key: value for key, value in given.items() if value is not None}
    for key, sections in (("global_pool", (pixels, document)), ("num_classes", (document,))):
        claims = [Fact(arguments[key], f"{key} in model_args")] if key in arguments else []
        for section in sections:
            if section.get(key) is not None:
                inside = "pretrained_cfg" if section is pixels else "the top of the file"
                claims.append(Fact(section[key], f"{key} in {inside}"))
        fact = reconcile(key, claims, where=str(path))
        if fact is not None:
            arguments[key] = fact.value
    if "num_classes" in pixels:  # the top of the file wins in timm, so it may differ
        arguments.setdefault("num_classes", pixels["num_classes"])
    count = arguments.get("num_classes", 0)
    if type(count) is not int or count < 0:
        raise _refusal(path, f"num_classes is {count!r}, wanted a whole number", "correct it")
    if "input_size" in pixels:
        size = pixels["input_size"]
        whole = isinstance(size, list) and len(size) == 3
        if not whole or not all(type(n) is int and n > 0 for n in size):
            raise _refusal(
                path, f"input_size is {size!r}, wanted [channels, height, width]", "correct it"
            )
        arguments.setdefault("in_chans", size[0])
        if pixels.get("fixed_input_size") and not given.get("dynamic_img_size"):
            arguments.setdefault("img_size", tuple(size[1:]))
    if isinstance(arguments.get("img_size"), list):
        arguments["img_size"] = tuple(arguments["img_size"])
    return arguments


def _check_sizes(
    document: dict[str, Any], pixels: dict[str, Any], spec: VitSpec, path: Path
) -> None:
    width = document.get("num_features")
    if width is not None and width != spec.width:
        raise _refusal(
            path,
            f"num_features is {width!r}, but {document['architecture']} with model_args "
            f"{document.get('model_args')!r} has {spec.width}",
            "write the arguments that the model was made with into model_args, as timm does: "
            f'"embed_dim": {width!r}, and its depth and num_heads',
        )
    said = (document.get("model_args") or {}).get("img_size")
    fixed = pixels.get("fixed_input_size")
    if "input_size" in pixels and not (said and fixed):  # timm then takes img_size for both
        size = tuple(pixels["input_size"][1:])
        if size != spec.image:
            raise _refusal(
                path,
                f"input_size is {size[0]}x{size[1]}, but the positions are those of img_size "
                f"{spec.image[0]}x{spec.image[1]}; timm would resample them",
                "save the model with img_size at that size, and give that file",
            )


def _pretrained_cfg() -> Any:
    return import_or_explain("timm.models").PretrainedCfg


def _refusal(path: Path, what: str, fix: str) -> CheckpointError:
    return CheckpointError(f"{NAME}: {what}", where=str(path), fix=fix)
