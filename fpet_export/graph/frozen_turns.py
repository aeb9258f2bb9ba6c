"""By what the blocks of a frozen module turn queries and keys: constants, or what merges leave.

A merge that keeps the same patches for every image selects rows of the constants beforehand. After
one whose choice depends on the image the sines and cosines of a token come out of a product with
the one-hot choice, as the token itself does, in float32.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from fpet_export.model.mergers import FrozenMerged, MergingModule
from fpet_export.model.vit import Vit


class FrozenTurns(nn.Module):
    """Sines and cosines of each block.

    Attributes:
        tables: Those that are constant, (2, 1, H, N, D/2) in the order of the frozen tokens.
        at: Which of them each block reads; None behind a merge that depends on the image.
    """

    def __init__(self, model: Vit, merges: Mapping[int, MergingModule]) -> None:
        super().__init__()
        spec, turns = model.spec, model.turns()
        assert turns is not None
        self.tables = nn.ParameterList()
        self.at: list[int | None] = []
        prefix = torch.arange(len(spec.prefix))
        places: torch.Tensor | None = torch.arange(spec.patches)
        known: dict[tuple[int, int], int] = {}
        for block in range(spec.depth):
            if places is None:
                self.at.append(None)
            else:
                key = (block if len(turns.sine) > 1 else 0, len(places))
                if key not in known:
                    following = [one for index, one in merges.items() if index >= block]
                    order = following[0].order if following else None
                    ordered = places if order is None else places[order]
                    rows = torch.cat([prefix, len(prefix) + ordered])
                    table = turns.of(block)[..., rows, :].contiguous()
                    known[key] = len(self.tables)
                    self.tables.append(nn.Parameter(table, requires_grad=False))
                self.at.append(known[key])
            if block in merges and places is not None:
                keeps = merges[block].keeps
                places = None if keeps is None else places[keeps]

    def of(self, block: int, now: torch.Tensor | None) -> torch.Tensor | None:
        """Return what a block reads, (2, B, H, N, D/2).

        Args:
            block: 0-based.
            now: As `after` gave it.
        """
        index = self.at[block]
        return now if index is None else self.tables[index]

    def after(self, turn: torch.Tensor | None, merged: FrozenMerged) -> torch.Tensor | None:
        """Return by what tokens that leave a merge are turned; None where that is a constant.

        Args:
            turn: By what the block turned them.
            merged: What its merge did.
        """
        if turn is None or merged.kept is None:
            return None
        return merged.kept[:, None] @ turn.to(merged.kept.dtype)
