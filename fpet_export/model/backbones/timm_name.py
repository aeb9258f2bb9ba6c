"""`timm:NAME`: pretrained weights through timm, which may fetch them."""

from __future__ import annotations

from typing import Any, cast

import torch

from engines.errors import MissingDependencyError
from engines.registry import import_or_explain
from fpet_export.model.backbones import Backbone, BackboneOptions, _timm_module
from fpet_export.model.backbones._names import check_weights, plainly_named, spec_from_names
from fpet_export.model.backbones._positions import for_image
from fpet_export.model.backbones._stated_pixels import Stated, applied, of_timm
from fpet_export.model.facts import Fact

_SCHEME = "timm:"


def recognises(text: str) -> bool:
    """Whether `text` starts with `timm:`."""
    return text.startswith(_SCHEME)


def read(text: str, options: BackboneOptions) -> Backbone:
    """Build the named model with pretrained weights."""
    name = text.removeprefix(_SCHEME)
    _timm_module.check_name(name, where=text)
    try:
        model = import_or_explain("timm").create_model(name, pretrained=True)
    # timm reaches the network here through several libraries, each with exceptions of its own.
    except Exception as error:
        raise MissingDependencyError(
            f"timm could not fetch the weights of {name}: {str(error).splitlines()[0][:160]}",
            where=text,
            fix="fetch them where there is a network, and give the file: --backbone FILE",
        ) from error
    return of_model(model, text, options)


def of_model(model: torch.nn.Module, text: str, options: BackboneOptions) -> Backbone:
    """Return a pretrained model of timm as a backbone.

    Raises:
        CheckpointError: It is no plain ViT, or not what the options say.
    """
    named = Fact(_timm_module.spec_of(model, where=text), "timm")
    weights = plainly_named(model.state_dict())
    spec, facts = spec_from_names(weights, options, where=text, named=named)
    weights, spec, resampled = for_image(
        check_weights(weights, spec, where=text), spec, options, where=text
    )
    stated: Stated = {}
    if not options.own_pixels:
        stated = of_timm(cast("dict[str, Any]", model.pretrained_cfg), where=text)
    return Backbone(
        spec=spec,
        weights=weights,
        source=text,
        quality="trained",
        preprocessing=applied(stated, spec.image),
        normalisation=f"timm's configuration of {text}" if "mean and std" in stated else None,
        facts=facts | resampled,
    )
