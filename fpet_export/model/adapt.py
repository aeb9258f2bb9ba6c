"""Backbone and checkpoint to the adapted model: the network as it was trained, in eval mode."""

from __future__ import annotations

import dataclasses
import functools
from typing import cast

import torch
from torch import nn

from engines.errors import CheckpointError, UsageError
from engines.manifest import Head
from fpet_export.model import mergers
from fpet_export.model.attached import attach
from fpet_export.model.backbones import Backbone
from fpet_export.model.backbones._names import HEAD_NAMES, compare_shapes
from fpet_export.model.checkpoints import Checkpoint
from fpet_export.model.edits import Branch, Edit, Own, SiteEdit
from fpet_export.model.merge_plan import MergePlan
from fpet_export.model.mergers import MergingModule
from fpet_export.model.vit import Vit, empty_vit
from fpet_export.model.vit_spec import VitSpec


def adapt(backbone: Backbone, checkpoint: Checkpoint, head: Head = "logits") -> Vit:
    """Return the backbone with the run's head, adapters and merger attached.

    Weights are shared with the two arguments, not copied.

    Args:
        backbone: What was tuned.
        checkpoint: What tuning made of it.
        head: What the network gives; without logits the classifier is left out, and so is what
            was tuned in it.

    Raises:
        CheckpointError: The head or an adapter does not fit the backbone.
        UsageError: The tokens of all patches are asked for, and a merger cannot give them back.
    """
    own = checkpoint.head if head == "logits" else {}
    classes = len(own["head.weight"]) if own else 0
    spec = dataclasses.replace(backbone.spec, classes=classes, head=head)
    model = empty_vit(spec)
    weights = {n: t for n, t in backbone.weights.items() if n not in HEAD_NAMES} | own
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
    attach(model, [e for e in checkpoint.edits() if head == "logits" or not _is_of_head(e)])
    plan = checkpoint.merge_plan(model.spec)
    if plan.merges:
        require_mergeable(checkpoint)
    if plan.loses and head == "tokens":
        raise UsageError(
            f"the tokens of all patches are asked for, and {plan.asked} loses some of them",
            where="--head tokens",
            fix="merge without loss, with --merge fpet@N or --merge tome:r=N; or export features: "
            "--head features",
        )
    model.merges = attached_merges(model.spec, plan, checkpoint.refinement)
    _require_positions(model, plan)
    return model.eval()


def require_mergeable(checkpoint: Checkpoint) -> None:
    """Refuse to merge tokens where something reads the patches as an image.

    Raises:
        UsageError: There is such a branch.
    """
    for edit in checkpoint.edits():
        if isinstance(edit, Branch) and edit.module.needs_grid:
            raise UsageError(
                f"{edit.path} convolves the patches as an image, and where tokens merge no image "
                "is left; before a merge they are not in its order either",
                where="the merge",
                fix="export without merging: --merge none",
            )


def _require_positions(model: Vit, plan: MergePlan) -> None:
    """Refuse a merge behind which a token's rotary position is too much to carry along.

    Raises:
        UsageError: Every head of every block has angles of its own, and which tokens keep their
            positions depends on the image.
    """
    rotary = model.spec.rotary
    merges = [cast(MergingModule, one) for one in model.merges.values()]
    if rotary is not None and rotary.learned and any(one.keeps is None for one in merges):
        raise UsageError(
            "every head of every block turns tokens by learned angles of its own, all of which "
            f"each image would have to sort anew: {plan.asked} keeps other positions in each image",
            where="the merge",
            fix="merge with --merge fpet@N, which keeps the same positions in every image; or "
            "export without merging: --merge none",
        )


def attached_merges(
    spec: VitSpec, plan: MergePlan, refinement: tuple[torch.Tensor, torch.Tensor] | None
) -> nn.ModuleDict:
    """Return the merge of each block of a plan, by its number in words."""
    entry, merges = mergers.load(plan.merger), nn.ModuleDict()
    for step in plan.steps:
        merge = entry.attach(spec, step, refinement)
        merge.joined = functools.partial(entry.joined, spec.grid, len(spec.prefix), step)
        merges[str(step.block)] = merge
    return merges


def _is_of_head(edit: Edit) -> bool:
    """Whether a change is one of the classifier."""
    if isinstance(edit, SiteEdit):
        return edit.site in ("head", "head_dist")
    return isinstance(edit, Own) and edit.name in HEAD_NAMES
