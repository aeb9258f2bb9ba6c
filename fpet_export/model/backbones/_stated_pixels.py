"""How images were prepared, as timm's config.json or Hugging Face's preprocessor_config.json says.

A field that is not there is not said: timm and transformers would fill it with ImageNet's, which
for most of these models is wrong.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engines.errors import CheckpointError
from engines.imaging.preparation import resizing_in_words
from engines.manifest import Preprocessing
from fpet_export.model import normalisation
from fpet_export.model.backbones import BackboneOptions, _timm_config
from fpet_export.model.backbones._names import raw_pixels
from fpet_export.model.facts import Fact, reconcile
from fpet_export.model.normalisation import Triple

NAME = "preprocessor_config.json"

_FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
"""Pillow's numbers, which Hugging Face writes, and its names, which timm writes."""


_READ = {
    "crop_size", "do_center_crop", "do_normalize", "do_rescale", "do_resize", "image_mean",
    "image_std", "rescale_factor", "resample", "size",
}  # fmt: skip
_NOTES = {
    "_processor_class", "_valid_processor_keys", "auto_map", "data_format", "default_to_square",
    "device", "disable_grouping", "do_convert_rgb", "do_reduce_labels", "feature_extractor_type",
    "image_processor_type", "image_seq_length", "input_data_format", "processor_class",
    "return_tensors", "transformers_version",
}  # fmt: skip
"""Keys of `preprocessor_config.json` that change no pixel of a colour image."""

_SQUARE = ("ViT", "DeiT", "Siglip", "DINOv3ViT")
_SHORTEST = ("CLIP", "Bit")
"""Processors of transformers, by what a size of one number means to them: a square, or the shorter
side, whose images they then crop; DeiT crops, too."""

_DEFAULT_FILTER = dict.fromkeys(("ViT", "DINOv3ViT"), 2) | dict.fromkeys(
    ("DeiT", "Siglip", "CLIP", "Bit"), 3
)
"""The filter that these take where the file does not say it."""

_JUST_BELOW_1 = math.nextafter(1.0, 0.0)
"""`Preprocessing.crop` of a centre crop that only cuts the longer side; 1.0 would squash."""

Stated = dict[str, Any]
"""Fields of `Preprocessing` that a file says: interpolation, crop, cropping, "mean and std"."""


def of_file(
    weights: Path,
    image: tuple[int, int],
    config: _timm_config.TimmConfig | None,
    options: BackboneOptions,
    *,
    whole: bool = False,
) -> tuple[Preprocessing, str | None, tuple[Path, ...], dict[str, Fact[str]]]:
    """Return what the files in the folder of `weights` say about its pixels.

    Args:
        weights: The backbone's file.
        image: The (height, width) of its input.
        config: timm's configuration beside it, if there is one.
        options: Whether the files matter.
        whole: Whether a processor has to say everything, as transformers writes it.

    Returns:
        The preprocessing, with mean 0 and std 1 where nothing says them; the name of the file that
        says mean and std, or None; files that were read besides `config`; and the fact how images
        are resized.

    Raises:
        CheckpointError: A file says what this toolkit does not do, or two disagree.
    """
    if options.own_pixels:
        return raw_pixels(image), None, (), {}
    said: list[tuple[Stated, str]] = []
    if config is not None:
        said.append((of_timm(config.pixels, where=str(config.path)), config.path.name))
    path = weights.with_name(NAME)
    if path.is_file():
        said.append((_of_transformers(path, image, lenient=not whole), path.name))
    facts = {}
    for field in ("interpolation", "crop", "cropping", "mean and std"):
        claims = [Fact(stated[field], source) for stated, source in said if field in stated]
        fact = reconcile(f"the {field} of the pixels", claims, where=str(weights.parent))
        if fact is not None:
            facts[field] = fact
    prepared = applied({field: fact.value for field, fact in facts.items()}, image)
    source = facts["mean and std"].source if "mean and std" in facts else None
    files = (path,) if path.is_file() else ()
    return prepared, source, files, {"resize": _resize_fact(prepared, facts)}


def _resize_fact(prepared: Preprocessing, said: Mapping[str, Fact[Any]]) -> Fact[str]:
    """Return how images are resized, and which file says so."""
    sources = {said[field].source for field in ("interpolation", "crop") if field in said}
    unsaid = [field for field in ("interpolation", "crop") if field not in said]
    if unsaid:
        sources.add(f"the default of {' and '.join(unsaid)}: nothing beside the file says it")
    how = resizing_in_words(prepared)
    return Fact(how, "; ".join(sorted(sources)))


def input_size(folder: Path) -> Fact[tuple[int, int]] | None:
    """Return the (height, width) that `preprocessor_config.json` ends at, where it says one.

    Raises:
        CheckpointError: It cannot be read.
    """
    path = folder / NAME
    if not path.is_file():
        return None
    document = _parse(path)
    key = "crop_size" if _crops(document, str(path)) else "size"
    size = document.get(key)
    height, width = (
        (size.get("height"), size.get("width")) if isinstance(size, dict) else (size, size)
    )
    if type(height) is not int or type(width) is not int or min(height, width) < 1:
        return None
    return Fact((height, width), f"{key} in {NAME}")


def applied(stated: Stated, image: tuple[int, int]) -> Preprocessing:
    """Return the preprocessing for an input of `image` pixels with what was stated."""
    changes = dict(stated)
    if "mean and std" in changes:
        changes["mean"], changes["std"] = changes.pop("mean and std")
    return dataclasses.replace(raw_pixels(image), **changes)


def of_timm(fields: Mapping[str, Any], *, where: str) -> Stated:
    """Return what the fields of timm's `pretrained_cfg` say.

    Raises:
        CheckpointError: A field is no value of its kind, or asks for what is not done here.
    """
    stated: Stated = {}
    if "interpolation" in fields:
        if fields["interpolation"] not in _FILTERS.values():
            raise _wrong("interpolation", fields["interpolation"], "a filter of Pillow", where)
        stated["interpolation"] = fields["interpolation"]
    if "crop_pct" in fields:
        crop, mode = fields["crop_pct"], fields.get("crop_mode", "center")
        if type(crop) not in (int, float) or not 0 < crop <= 1:
            raise _wrong("crop_pct", crop, "a share from above 0 to 1", where)
        if mode not in ("center", "squash") or (mode == "squash" and crop < 1):
            wanted = "center, or squash with crop_pct 1"
            raise _wrong("crop_mode", mode, wanted, where)
        stated["crop"] = min(float(crop), _JUST_BELOW_1) if mode == "center" else 1.0
    found = _mean_and_std(fields.get("mean"), fields.get("std"), ("mean", "std"), where)
    return stated if found is None else stated | {"mean and std": found}


def _of_transformers(path: Path, image: tuple[int, int], *, lenient: bool) -> Stated:
    where = str(path)
    document = _parse(path)
    for key, value in document.items():
        if key not in _READ | _NOTES and value not in (None, False):
            raise _wrong(key, value, "no key that changes pixels in another way", where)
    rescales = document.get("do_rescale", True)
    factor = document.get("rescale_factor", 1 / 255)
    if rescales is not True or type(factor) is not float or not math.isclose(factor, 1 / 255):
        said = f"do_rescale {rescales!r} with rescale_factor {factor!r}"
        raise _wrong("rescaling", said, "pixels divided by 255", where)
    stated = _size_and_crop(document, image, where)
    resample = document.get("resample", _DEFAULT_FILTER.get(_family(document)))
    if resample is None and not lenient:
        raise _wrong("resample", resample, "0, 1, 2 or 3 of Pillow", where)
    if resample is not None:
        if type(resample) is not int or resample not in _FILTERS:
            raise _wrong("resample", resample, "0, 1, 2 or 3 of Pillow", where)
        stated["interpolation"] = _FILTERS[resample]
    if document.get("do_normalize") is False:
        return stated | {"mean and std": normalisation.NORMALISATIONS["none"]}
    keys = ("image_mean", "image_std")
    found = _mean_and_std(document.get(keys[0]), document.get(keys[1]), keys, where)
    if found is None:
        raise _wrong("image_mean", None, "three numbers, or do_normalize false", where)
    return stated | {"mean and std": found}


def _parse(path: Path) -> dict[str, Any]:
    try:
        document: Any = json.loads(path.read_text("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{NAME} cannot be read: {error}", where=str(path), fix="correct or remove the file"
        ) from error
    if not isinstance(document, dict):
        raise _wrong(NAME, document, "an object", str(path))
    return document


def _size_and_crop(document: Mapping[str, Any], image: tuple[int, int], where: str) -> Stated:
    """Return the crop; refuse what does not end at the network's own size."""
    if document.get("do_resize", True) is not True:
        raise _wrong("do_resize", document["do_resize"], "true", where)
    size = document.get("size")
    crops = _crops(document, where)
    if size is None:
        if crops:
            raise _wrong("size", size, "the size before the crop, as do_center_crop is on", where)
        return {}
    cut = document.get("crop_size") if crops else None
    cropped = (cut.get("height"), cut.get("width")) if isinstance(cut, dict) else (cut, cut)
    if crops and cropped != image:
        raise _wrong("crop_size", cut, f"{image[0]}x{image[1]}, as the weights are for", where)
    edge = size.get("shortest_edge") if isinstance(size, dict) else None
    if type(size) is int and crops and not _is_square(document, where):
        edge = size
    if edge is not None:
        if not crops or type(edge) is not int or edge < max(image) or image[0] != image[1]:
            raise _wrong("size", size, f"a shortest_edge from {max(image)}, then cropped", where)
        return {"crop": min(image[0] / edge, _JUST_BELOW_1), "cropping": "transformers"}
    whole = (size.get("height"), size.get("width")) if isinstance(size, dict) else (size, size)
    if whole == image:
        return {"crop": 1.0}
    share = image[0] / whole[0] if type(whole[0]) is int and whole[0] > 0 else 0.0
    if crops and 0 < share < 1 and whole == tuple(math.floor(side / share) for side in image):
        return {"crop": share, "cropping": "squashed"}
    raise _wrong("size", size, f"{image[0]}x{image[1]}, as the weights are for", where)


def _crops(document: Mapping[str, Any], where: str) -> bool:
    """Whether the centre is cut out; the key may be left to the processor's own class."""
    said = document.get("do_center_crop")
    if said is None:
        family = _family(document)
        if document.get("crop_size") is not None and family not in (*_SQUARE, *_SHORTEST):
            raise _wrong("do_center_crop", said, "true or false, as there is a crop_size", where)
        return family in ("DeiT", *_SHORTEST)
    if said not in (None, True, False):
        raise _wrong("do_center_crop", said, "true or false", where)
    return said is True


def _is_square(document: Mapping[str, Any], where: str) -> bool:
    """Whether a size that is one number means a square; else it is the shorter side."""
    said = document.get("default_to_square")
    if type(said) is bool:
        return said
    family = _family(document)
    if family in _SHORTEST:
        return False
    if family not in _SQUARE:
        wanted = '{"shortest_edge": N} or {"height": N, "width": N}: a number means either'
        raise _wrong("size", document["size"], wanted, where)
    return True


def _family(document: Mapping[str, Any]) -> str:
    """Return the processor's class without what stands behind the model's name."""
    named = document.get("image_processor_type") or document.get("feature_extractor_type")
    return re.sub(r"(ImageProcessor|FeatureExtractor)(Fast|Pil)?$", "", str(named))


def _mean_and_std(
    mean: object, std: object, keys: tuple[str, str], where: str
) -> tuple[Triple, Triple] | None:
    if mean is None and std is None:
        return None
    found = _triple(keys[0], mean, where), _triple(keys[1], std, where)
    if min(found[1]) <= 0:
        raise _wrong(keys[1], std, "three numbers above 0", where)
    if normalisation.are_of_bytes(*found):
        raise _wrong(
            f"{keys[0]} and {keys[1]}",
            (mean, std),
            f"those of pixels in 0..1, such as {normalisation.of_bytes(*found)}",
            where,
        )
    return found


def _triple(key: str, value: object, where: str) -> Triple:
    numbers = value if isinstance(value, list | tuple) else ()
    if len(numbers) != 3 or not all(type(x) in (int, float) and math.isfinite(x) for x in numbers):
        raise _wrong(key, value, "three numbers", where)
    return float(numbers[0]), float(numbers[1]), float(numbers[2])


def _wrong(key: str, value: object, wanted: str, where: str) -> CheckpointError:
    return CheckpointError(
        f"{key} is {value!r}, wanted {wanted}", where=where, fix="correct the file, or remove it"
    )
