"""How the images of a run were prepared: a fact with a source, never a default."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.errors import CheckpointError, UsageError
from engines.imaging.images import PixelArray, to_input
from engines.manifest import Decode, Preprocessing
from fpet_export.model import normalisation
from fpet_export.model.backbones import Backbone
from fpet_export.model.backbones._names import raw_pixels
from fpet_export.model.checkpoints import Checkpoint, Run
from fpet_export.model.facts import Fact


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
        source = "random weights, for which any normalisation will do"
    else:
        raise CheckpointError(
            "nothing says how the pixels were normalised: no config.json or "
            "preprocessor_config.json with mean and std lies beside the backbone",
            where=backbone.source,
            fix="state it: --normalisation none, imagenet, half, clip or MEAN/STD as "
            "0.5,0.5,0.5/0.5,0.5,0.5",
        )
    prepared = dataclasses.replace(base, mean=mean, std=std)
    return prepared, Fact(normalisation.name_of(mean, std), source)


def plain_input(pixels: PixelArray, preprocessing: Preprocessing) -> NDArray[np.float32]:
    """Return (I, 3, height, width) values in 0..1, mean and std not applied, for a model."""
    plain = dataclasses.replace(preprocessing, in_graph=True, layout="NCHW", dtype="float32")
    return to_input(pixels, plain)


def with_decoding(
    preprocessing: Preprocessing,
    facts: Mapping[str, Fact[Any]],
    decode: Decode | None,
    background: tuple[int, int, int] | None,
) -> tuple[Preprocessing, dict[str, Fact[Any]]]:
    """Return how image files become pixels, and the facts of the run with where that came from.

    What the user asks for counts, then what the run's format says, then the backbone's default.

    Args:
        preprocessing: As `prepared_pixels` takes it.
        facts: Facts of the run; its format may say how its own code decodes.
        decode: What the user says; None leaves it to them.
        background: (red, green, blue), likewise.

    Raises:
        UsageError: One of them is none, or the background would have no effect.
    """
    if decode not in (None, "full", "plain"):
        raise UsageError(f"decode is {decode!r}", where="--decode", fix="give full or plain")
    if background is not None and not _is_colour(background):
        raise UsageError(
            f"background is {background!r}, wanted (red, green, blue), each from 0 to 255",
            where="--background",
            fix="correct it: (255, 255, 255) is white",
        )
    default = Fact(preprocessing.decode, "the default")
    how = facts.get("decode", default) if decode is None else Fact(decode, "--decode")
    behind = Fact(preprocessing.background, "the default")
    if background is not None:
        behind = Fact(background, "--background")
    if how.value == "plain" and background is not None:
        raise UsageError(
            f"a background has no effect with decode plain ({how.source}), which drops "
            "transparency",
            where="--background",
            fix="add --decode full, or leave --background out",
        )
    found = dict(facts) | {"decode": how}
    if how.value == "full":
        found["background"] = Fact("{},{},{}".format(*behind.value), behind.source)
    return dataclasses.replace(preprocessing, decode=how.value, background=behind.value), found


def _is_colour(background: Sequence[object]) -> bool:
    return len(background) == 3 and all(
        isinstance(part, int) and 0 <= part <= 255 for part in background
    )
