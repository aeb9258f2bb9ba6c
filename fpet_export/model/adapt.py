"""Backbone and checkpoint to the adapted model: the network as it was trained, in eval mode."""

from __future__ import annotations

import dataclasses

from engines.errors import CheckpointError
from fpet_export.model import mergers
from fpet_export.model.attached import attach
from fpet_export.model.backbones import Backbone
from fpet_export.model.backbones._names import HEAD_NAMES, compare_shapes
from fpet_export.model.checkpoints import Checkpoint
from fpet_export.model.vit import Vit, empty_vit


def adapt(backbone: Backbone, checkpoint: Checkpoint) -> Vit:
    """Return the backbone with the run's head, adapters and merger attached.

    Weights are shared with the two arguments, not copied.

    Raises:
        CheckpointError: The head or an adapter does not fit the backbone.
    """
    spec = dataclasses.replace(backbone.spec, classes=len(checkpoint.head["head.weight"]))
    model = empty_vit(spec)
    weights = {n: t for n, t in backbone.weights.items() if n not in HEAD_NAMES} | checkpoint.head
    wanted = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    problems = compare_shapes({n: tuple(t.shape) for n, t in weights.items()}, wanted)
    if problems:
        raise CheckpointError(
            f"run and backbone do not go together: {problems}",
            where=f"{checkpoint.name} on {backbone.source}",
            fix="give the backbone the run was trained on: --backbone FILE",
        )
    model.load_state_dict(weights, assign=True)
    model.requires_grad_(False)
    attach(model, checkpoint.edits())
    _attach_merger(model, checkpoint)
    return model.eval()


def _attach_merger(model: Vit, checkpoint: Checkpoint) -> None:
    if checkpoint.merge_block is None:
        return
    model.merger = mergers.load(checkpoint.merger).attach(model.spec, checkpoint.refinement)
    model.merge_block = checkpoint.merge_block
