"""Positions for images of another size than those that the weights are for, as timm makes them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch

from engines.errors import CheckpointError, UsageError
from engines.registry import import_or_explain
from fpet_export.model.backbones import BackboneOptions
from fpet_export.model.facts import Fact
from fpet_export.model.vit_spec import VitSpec


def for_image(
    weights: Mapping[str, torch.Tensor], spec: VitSpec, options: BackboneOptions, *, where: str
) -> tuple[dict[str, torch.Tensor], VitSpec, dict[str, Fact[str]]]:
    """Return weights and network for the images that `--image` names, and how that was done.

    timm's own code resamples the positions: bicubic, with a filter that is widened where the grid
    gets smaller. Those of prefix tokens stay. What says the network's own size needs nothing.

    Args:
        weights: With timm's names, already checked.
        spec: The network that they are of.
        options: What the user says.
        where: The file.

    Raises:
        UsageError: The images are no whole number of patches.
        CheckpointError: The code of this network would resample in another way.
    """
    wanted, own = options.image, spec.image
    if wanted is None or wanted == own:
        return dict(weights), spec, {}
    if min(wanted) < 1 or any(side % patch for side, patch in zip(wanted, spec.patch, strict=True)):
        raise UsageError(
            f"images of {wanted[0]}x{wanted[1]} are no whole number of patches of "
            f"{spec.patch[0]}x{spec.patch[1]}",
            where="--image",
            fix=f"give multiples of these, or leave --image out: the weights are for "
            f"{own[0]}x{own[1]}",
        )
    if not options.resamples:
        raise CheckpointError(
            f"the positions are those of {own[0]}x{own[1]}, --image says {wanted[0]}x{wanted[1]}, "
            "and the code of this network resamples them in a way of its own",
            where=where,
            fix="leave --image out; or load the weights there with that size, and save them",
        )
    changed = dataclasses.replace(spec, image=wanted)
    text = "x".join(map(str, wanted))
    if not spec.absolute_positions:
        return (
            dict(weights),
            changed,
            {"image": Fact(text, "--image; rotary positions fit any size")},
        )
    positions: torch.Tensor = import_or_explain("timm.layers").resample_abs_pos_embed(
        weights["pos_embed"],
        new_size=list(changed.grid),
        old_size=list(spec.grid),
        num_prefix_tokens=spec.positions - spec.patches,
    )
    how = f"--image; the positions of {own[0]}x{own[1]} are resampled as timm does"
    fact = Fact(text, how)
    return {**weights, "pos_embed": positions}, changed, {"image": fact}
