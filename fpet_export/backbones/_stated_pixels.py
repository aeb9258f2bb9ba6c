"""How images were prepared, as timm's config.json or Hugging Face's preprocessor_config.json says.

A field that is not there is not said: timm and transformers would fill it with ImageNet's, which
for most of these models is wrong.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engines.errors import CheckpointError
from engines.manifest import Preprocessing
from fpet_export import normalisation
from fpet_export.backbones import _timm_config
from fpet_export.backbones._names import raw_pixels
from fpet_export.facts import Fact, agree
from fpet_export.normalisation import Triple

NAME = "preprocessor_config.json"

_FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
"""Pillow's numbers, which Hugging Face writes, and its names, which timm writes."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StatedPixels:
    """What files say about the pixels.

    Attributes:
        preprocessing: With mean 0 and std 1 where nothing says them.
        normalisation: Which file says mean and std, or None.
        files: Files that were read.
    """

    preprocessing: Preprocessing
    normalisation: str | None
    files: tuple[Path, ...] = ()


def beside(
    weights: Path, image: tuple[int, int], config: _timm_config.TimmConfig | None
) -> StatedPixels:
    """Return what the files in the folder of `weights` say about its pixels.

    Raises:
        CheckpointError: A file says what this toolkit does not do, or two disagree.
    """
    plain = raw_pixels(image)
    claims: list[Fact[tuple[Triple, Triple]]] = []
    files = []
    if config is not None:
        plain, found = of_timm(config.pixels, plain, where=str(config.path))
        claims += [Fact(found, config.path.name)] if found else []
    path = weights.with_name(NAME)
    if path.is_file():
        plain, claim = _of_transformers(path, plain)
        claims.append(claim)
        files.append(path)
    fact = agree("mean and std of the pixels", claims, where=str(weights.parent))
    if fact is None:
        return StatedPixels(preprocessing=plain, normalisation=None, files=tuple(files))
    mean, std = fact.value
    return StatedPixels(
        preprocessing=dataclasses.replace(plain, mean=mean, std=std),
        normalisation=fact.source,
        files=tuple(files),
    )


def of_timm(
    fields: Mapping[str, Any], plain: Preprocessing, *, where: str
) -> tuple[Preprocessing, tuple[Triple, Triple] | None]:
    """Return `plain` with the filter and the crop of timm's `pretrained_cfg`; mean and std.

    Raises:
        CheckpointError: A field is no value of its kind.
    """
    changes: dict[str, Any] = {}
    if "interpolation" in fields:
        if fields["interpolation"] not in _FILTERS.values():
            raise _wrong("interpolation", fields["interpolation"], "a filter of Pillow", where)
        changes["interpolation"] = fields["interpolation"]
    if "crop_pct" in fields:
        crop = fields["crop_pct"]
        if type(crop) not in (int, float) or not 0 < crop <= 1:
            raise _wrong("crop_pct", crop, "a share from above 0 to 1", where)
        changes["crop"] = float(crop)
    found = _mean_and_std(fields.get("mean"), fields.get("std"), ("mean", "std"), where)
    return dataclasses.replace(plain, **changes), found


def _of_transformers(
    path: Path, plain: Preprocessing
) -> tuple[Preprocessing, Fact[tuple[Triple, Triple]]]:
    where = str(path)
    try:
        document: Any = json.loads(path.read_text("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{NAME} cannot be read: {error}", where=where, fix="mend or remove the file"
        ) from error
    if not isinstance(document, dict):
        raise _wrong(NAME, document, "an object", where)
    rescales = document.get("do_rescale", True)
    factor = document.get("rescale_factor", 1 / 255)
    if rescales is not True or type(factor) is not float or not math.isclose(factor, 1 / 255):
        said = f"do_rescale {rescales!r} with rescale_factor {factor!r}"
        raise _wrong("rescaling", said, "pixels divided by 255", where)
    _check_size(document, plain.size, where)
    if "resample" in document:
        if document["resample"] not in _FILTERS:
            raise _wrong("resample", document["resample"], "0, 1, 2 or 3 of Pillow", where)
        plain = dataclasses.replace(plain, interpolation=_FILTERS[document["resample"]])
    if document.get("do_normalize") is False:
        return plain, Fact(normalisation.NORMALISATIONS["none"], f"do_normalize in {NAME}")
    keys = ("image_mean", "image_std")
    found = _mean_and_std(document.get(keys[0]), document.get(keys[1]), keys, where)
    if found is None:
        raise _wrong("image_mean", None, "three numbers, or do_normalize false", where)
    return plain, Fact(found, NAME)


def _check_size(document: Mapping[str, Any], size: tuple[int, int], where: str) -> None:
    """Refuse a size that is not the network's own; the crop's size counts, where there is one."""
    cropped = document.get("do_center_crop") is True and document.get("crop_size") is not None
    key = "crop_size" if cropped else "size"
    said = document.get(key)
    if said is None or document.get("do_resize") is False:
        return
    if isinstance(said, dict):
        edge = said.get("shortest_edge")
        found = (said.get("height", edge), said.get("width", edge))
    else:
        found = (said, said)
    if found != size:
        raise _wrong(key, said, f"{size[0]}x{size[1]}, as the weights are for", where)


def _mean_and_std(
    mean: object, std: object, keys: tuple[str, str], where: str
) -> tuple[Triple, Triple] | None:
    if mean is None and std is None:
        return None
    found = _triple(keys[0], mean, where), _triple(keys[1], std, where)
    if min(found[1]) <= 0:
        raise _wrong(keys[1], std, "three numbers above 0", where)
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
