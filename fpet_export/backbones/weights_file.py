"""A `.safetensors` or `.pth` file with timm's names; timm's config.json beside it is read too."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from engines.errors import CheckpointError
from fpet_export import torch_files
from fpet_export.backbones import Backbone, BackboneOptions, random_weights
from fpet_export.backbones._names import check_weights, raw_pixels, spec_from_names
from fpet_export.vit import VitSpec

_SUFFIXES = (".safetensors", ".pth", ".pt")


def recognises(text: str) -> bool:
    """Whether `text` ends like a file of tensors."""
    return text.lower().endswith(_SUFFIXES)


def read(text: str, options: BackboneOptions) -> Backbone:
    """Read and check the file; `config.json` beside it (timm's hub layout) names the heads."""
    path = Path(text)
    weights = torch_files.read_tensors(path)
    files = [path]
    config = path.with_name("config.json")
    named: VitSpec | None = None
    if config.is_file():
        heads, named = _read_config(config)
        if options.heads is None and heads is not None:
            options = dataclasses.replace(options, heads=heads)
            files.append(config)
    spec, facts = spec_from_names(weights, options, where=path.name)
    if config in files:
        facts["heads"] = config.name
    if named is not None:
        spec = dataclasses.replace(
            spec, norm_eps=named.norm_eps, activation=named.activation, pool=named.pool
        )
    elif spec.pre_norm:
        raise CheckpointError(
            "a ViT with a norm before its first block (CLIP's) comes with GELU or QuickGELU and "
            "with two epsilons; the tensors do not say which",
            where=str(path),
            fix="put timm's config.json, which names the architecture, beside the file",
        )
    return Backbone(
        spec=spec,
        weights=check_weights(weights, spec, where=str(path)),
        source=path.name,
        quality="trained",
        preprocessing=raw_pixels(spec.image),
        files=tuple(files),
        facts=facts,
    )


def _read_config(path: Path) -> tuple[int | None, VitSpec | None]:
    """Return the heads and the network that timm's config.json names, as far as it does."""
    try:
        document: Any = json.loads(path.read_text("utf-8"))
        architecture = document.get("architecture")
        heads = document.get("model_args", {}).get("num_heads")
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"config.json cannot be read: {error}",
            where=str(path),
            fix="mend or remove the file, and say --heads N",
        ) from error
    if heads is not None and type(heads) is not int:
        raise CheckpointError(
            f"num_heads is {heads!r}, wanted a whole number", where=str(path), fix="mend the file"
        )
    named = None
    if isinstance(architecture, str):
        named = random_weights.spec_of_name(architecture, where=str(path))
        heads = named.heads if heads is None else heads
    return heads, named
