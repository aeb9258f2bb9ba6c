"""How the images of a run were prepared: a fact with a source, never a default."""

from __future__ import annotations

import dataclasses

from engines.errors import CheckpointError, UsageError
from engines.manifest import Preprocessing
from fpet_export import normalisation
from fpet_export.backbones import Backbone
from fpet_export.backbones._names import raw_pixels
from fpet_export.checkpoints import Checkpoint, Run
from fpet_export.facts import Fact


def prepared_pixels(
    run: Run, backbone: Backbone, checkpoint: Checkpoint, asked: str | None
) -> tuple[Preprocessing, Fact[str]]:
    """Return the preprocessing of a run, and its normalisation by name with its source.

    Args:
        run: Its format may say what its own code does.
        backbone: The files beside it may say what it was trained with.
        checkpoint: Random weights need no normalisation.
        asked: What the user says, as `normalisation.parse` reads it; it overrides the others.

    Raises:
        CheckpointError: Nothing says the normalisation of trained weights.
        UsageError: `asked` is none.
    """
    base = backbone.preprocessing
    if run.normalisation is not None:  # its code resizes as it does, whatever the backbone saw
        base = raw_pixels(backbone.spec.image)
    if asked is not None:
        try:
            mean, std = normalisation.parse(asked)
        except ValueError as error:
            raise UsageError(
                str(error), where="--normalisation", fix="correct --normalisation"
            ) from error
        source = "--normalisation"
    elif run.normalisation is not None:
        mean, std = normalisation.parse(run.normalisation.value)
        source = run.normalisation.source
    elif backbone.normalisation is not None:
        mean, std, source = base.mean, base.std, backbone.normalisation
    elif checkpoint.quality == backbone.quality == "random":
        mean, std = normalisation.NORMALISATIONS["none"]
        source = "random weights, which no normalisation suits better"
    else:
        raise CheckpointError(
            "nothing says how the pixels were normalised: no config.json or "
            "preprocessor_config.json with mean and std lies beside the backbone",
            where=backbone.source,
            fix="say it: --normalisation none, imagenet, half, clip or MEAN/STD as "
            "0.5,0.5,0.5/0.5,0.5,0.5",
        )
    prepared = dataclasses.replace(base, mean=mean, std=std)
    return prepared, Fact(normalisation.name_of(mean, std), source)
