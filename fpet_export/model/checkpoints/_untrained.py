"""Where tokens merge in a run that was not trained with merging: where the user says."""

from __future__ import annotations

from fpet_export.model.checkpoints import Hints
from fpet_export.model.facts import Fact
from fpet_export.model.merge_plan import require_block
from fpet_export.model.vit_spec import VitSpec


def merge_block(hints: Hints, spec: VitSpec, *, what: str) -> Fact[int | None]:
    """Return the block after whose attention tokens merge, or None.

    Args:
        hints: What the user says.
        spec: The network.
        what: The run, in words.

    Raises:
        UsageError: The network has no such block.
    """
    asked = hints.merge_block
    if asked is None:
        return Fact(None, f"{what} says none, and --merge-block asks for none")
    if asked == "none":
        return Fact(None, "--merge-block")
    require_block(asked, spec, where="--merge-block")
    return Fact(asked, "--merge-block: the model was not trained with merging")
