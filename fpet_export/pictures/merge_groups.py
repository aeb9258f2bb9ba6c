"""Which patches of an image became one token, as groups with counts."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from engines.manifest import ModelFacts
from engines.plurals import counted
from fpet_export.model import mergers
from fpet_export.model.merge_plan import merger_of

Match = NDArray[np.int64]
Owner = NDArray[np.int64]


@dataclasses.dataclass(frozen=True, kw_only=True)
class MergeGroups:
    """How the patches of one image were merged.

    Attributes:
        owner: (rows, columns) raster index of the patch whose token each patch ended in; -1 for
            a lost one.
        merged: Owners of at least two patches, the largest group first.
        sizes: Patches of each of these groups.
        alone: Patches that nothing merged with.
        dropped: Patches that are in no token.
    """

    owner: Owner
    merged: tuple[int, ...]
    sizes: tuple[int, ...]
    alone: int
    dropped: int

    @property
    def tokens(self) -> int:
        """Tokens that remain of the patches."""
        return len(self.merged) + self.alone

    def describe(self) -> str:
        """Return the counts as one sentence without its full stop."""
        text = f"{counted(self.owner.size, 'patch', 'patches')} became "
        text += counted(self.tokens, "token")
        parts = []
        if self.merged:
            least, most = self.sizes[-1], self.sizes[0]
            groups = counted(len(self.merged), "group")
            sizes = str(most) if least == most else f"{least} to {most}"
            parts = [f"{groups} of {sizes} merged patches"]
        parts += [f"{counted(self.alone, 'patch', 'patches')} alone"] if self.alone else []
        parts += [f"{counted(self.dropped, 'patch', 'patches')} dropped"] if self.dropped else []
        return f"{text}: {', '.join(parts)}"

    def to_json(self) -> dict[str, int]:
        """Return the counts as what `json.dumps` takes."""
        return {
            "patches": self.owner.size,
            "tokens": self.tokens,
            "merged_groups": len(self.merged),
            "largest_group": max(self.sizes, default=0),
            "alone": self.alone,
            "dropped": self.dropped,
        }


def groups_by_block(match: Match, model: ModelFacts) -> dict[int, MergeGroups]:
    """Return which patches are one token after each block that merges.

    Args:
        match: (Na,) of one image, the blocks side by side.
        model: What a manifest says of the network.
    """
    entry = mergers.load(merger_of(model.merge))
    place = owners = np.arange(model.grid[0] * model.grid[1])
    found, start = {}, 0
    for step in model.merges:
        part = match[start : start + step.sources]
        slots, stays = entry.joined(model.grid, model.prefix_tokens, step, part)
        start += step.sources
        place = np.where(place < 0, -1, slots[place])
        owners = owners[stays]
        owner = np.where(place < 0, -1, owners[place])
        found[step.block] = groups_of(owner.reshape(model.grid))
    return found


def groups_of(owner: Owner) -> MergeGroups:
    """Return the groups of patches with one owner.

    Args:
        owner: (rows, columns) raster index of the patch whose token each patch is in; -1 for a
            lost one.
    """
    owners, counts = np.unique(owner[owner >= 0], return_counts=True)
    order = np.lexsort((owners, -counts))
    several = [index for index in order if counts[index] > 1]
    return MergeGroups(
        owner=owner,
        merged=tuple(int(owners[index]) for index in several),
        sizes=tuple(int(counts[index]) for index in several),
        alone=int((counts == 1).sum()),
        dropped=int((owner < 0).sum()),
    )
