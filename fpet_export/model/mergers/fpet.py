"""FPET: every patch of one checkerboard colour joins its most similar patch of the other colour.

Sets A and B are the two colours of the patch grid; prefix tokens (class, distillation, register)
belong to neither and are never touched. Two statements of the same match live here:

* `reference_match`, the published rule `sigmoid(S - theta) > 0.5`, which is what was trained. A
  row whose two best scores tie (in finite precision: nearly tie) matches nothing and its token
  is lost.
* `argmax_match`, which keeps every token and is what the frozen graph runs.

Differences from the authors' code: the real patch grid instead of the square root of the token
count, any number of prefix tokens, and an epsilon under the square root so that an all-zero key
does not turn every token into NaN.

Source: Kim et al., "Faster Parameter-Efficient Tuning with Token Redundancy Reduction",
CVPR 2025.
"""

from __future__ import annotations

import re

import numpy as np
import torch
from torch import nn

from engines.errors import InputError, UsageError
from engines.manifest import MergeStep
from fpet_export.model.mergers import (
    FrozenMerged,
    IntArray,
    MergingModule,
    Reads,
    TokenMerger,
)
from fpet_export.model.mergers._slots import (
    averaged,
    chosen_by,
    in_type_of,
    normalise,
    slots_of,
    won_by,
)
from fpet_export.model.merging import Attended, Merged
from fpet_export.model.methods import Layer
from fpet_export.model.vit_spec import VitSpec

REFINEMENT_WIDTH = 32
"""Inner width of the refinement adapter in every published run."""

_ASKED = re.compile(r"fpet@([0-9]{1,4})")


def partition(grid: tuple[int, int]) -> tuple[IntArray, IntArray]:
    """Return the raster patch indices of set A and of set B, in the order the method uses.

    Args:
        grid: (rows, columns) of patches.

    Returns:
        A (Na,): rows and columns both even, then both odd. B (Nb,): odd row and even column,
        then even row and odd column. Each part in raster order.

    Raises:
        InputError: The grid has a single patch, so one colour is empty.
    """
    rows, columns = grid
    if rows * columns < 2:
        raise InputError(
            f"a grid of {rows} x {columns} patches has no second colour to merge into",
            where="merger fpet",
            fix="export without merging: --merge none",
        )
    raster = np.arange(rows * columns, dtype=np.int64).reshape(rows, columns)
    set_a = np.concatenate([raster[0::2, 0::2].ravel(), raster[1::2, 1::2].ravel()])
    set_b = np.concatenate([raster[1::2, 0::2].ravel(), raster[0::2, 1::2].ravel()])
    return set_a, set_b


def refine(
    metric: torch.Tensor, down: torch.Tensor | None, up: torch.Tensor | None
) -> torch.Tensor:
    """Add the refinement adapter's output to (B, N, D) head-averaged keys.

    Args:
        metric: Keys averaged over heads.
        down: (R, D), or None for a merger without refinement.
        up: (D, R).

    Source: Kim et al. 2025; the refinement has scale 1 and no bias.
    """
    if down is None or up is None:
        return metric
    return metric + torch.relu(metric @ down.T) @ up.T


def argmax_match(scores: torch.Tensor, *, drop_ties: bool = False) -> torch.Tensor:
    """Match every A token to its best B token.

    Args:
        scores: (B, Na, Nb); cosines when `drop_ties` is set, else any positive multiple by row.
        drop_ties: Reproduce the published rule, written without a top-k: a row whose two best
            scores nearly tie matches nothing.

    Returns:
        Indices (B, Na), the first of equal scores; -1 for a dropped row.
    """
    best = scores.argmax(dim=-1)
    if not drop_ties or scores.shape[-1] == 1:
        return best
    chosen = best.unsqueeze(-1) == torch.arange(scores.shape[-1], device=scores.device)
    top = scores.amax(dim=-1)
    second = scores.masked_fill(chosen, -torch.inf).amax(dim=-1)
    kept = torch.sigmoid(top - (top + second) / 2) > 0.5
    return torch.where(kept, best, -1)


def reference_match(scores: torch.Tensor) -> torch.Tensor:
    """Return the (B, Na, Nb) match of the published rule; a row of a tie is all zero."""
    if scores.shape[-1] == 1:
        return torch.ones_like(scores)
    best = scores.topk(2, dim=-1).values
    theta = best.mean(dim=-1, keepdim=True)
    return (torch.sigmoid(scores - theta) > 0.5).to(scores.dtype)


class ReferenceMerger(MergingModule):
    """The merge as it was trained: sigmoid match on the refined, head-averaged keys."""

    set_a: torch.Tensor
    set_b: torch.Tensor

    def __init__(
        self,
        step: MergeStep,
        grid: tuple[int, int],
        prefix: int,
        *,
        down: torch.Tensor | None = None,
        up: torch.Tensor | None = None,
    ) -> None:
        super().__init__()
        self.step, self.prefix = step, prefix
        set_a, set_b = partition(grid)
        self.register_buffer("set_a", torch.from_numpy(set_a) + prefix, persistent=False)
        self.register_buffer("set_b", torch.from_numpy(set_b) + prefix, persistent=False)
        self.down = None if down is None else nn.Parameter(down, requires_grad=False)
        self.up = None if up is None else nn.Parameter(up, requires_grad=False)

    @property
    def order(self) -> torch.Tensor:
        """Set B, then set A."""
        return torch.cat([self.set_b, self.set_a]) - self.prefix

    @property
    def keeps(self) -> torch.Tensor:
        """Set B, which the others join."""
        return self.set_b - self.prefix

    def frozen(self, reads: Reads, *, ties: str, leave: torch.Tensor | None) -> FrozenMerge:
        """Return the match by argmax and the merge; see `MergingModule`."""
        return FrozenMerge(reads.mean_key(), self, ties, leave)

    def forward(
        self, tokens: torch.Tensor, attended: Attended, size: torch.Tensor | None
    ) -> Merged:
        """Merge (B, N, C) tokens by their keys."""
        metric = normalise(refine(attended.keys.mean(dim=1), self.down, self.up))
        scores = metric[:, self.set_a] @ metric[:, self.set_b].transpose(1, 2)
        match = reference_match(scores)
        weight = tokens.new_ones(*tokens.shape[:2], 1) if size is None else size
        sums, to_b = tokens * weight, match.transpose(1, 2)
        sizes = weight[:, self.set_b] + to_b @ weight[:, self.set_a]
        merged = (sums[:, self.set_b] + to_b @ sums[:, self.set_a]) / sizes
        dropped = match.sum(dim=-1) == 0
        return Merged(
            tokens=torch.cat([tokens[:, : self.prefix], merged], dim=1),
            size=torch.cat([weight[:, : self.prefix], sizes], dim=1),
            match=scores.argmax(dim=-1).masked_fill(dropped, -1),
            margin=won_by(scores),
        )


class FrozenMerge(nn.Module):
    """Match by argmax and merge, on tokens in the order prefix, set B, set A.

    The metric is the head average of the keys. It comes from a module of its own on the same
    normalised tokens, so that the keys stay private to a fused attention kernel.
    """

    stay: torch.Tensor

    def __init__(
        self, key: nn.Module, merger: ReferenceMerger, ties: str, leave: torch.Tensor | None
    ) -> None:
        super().__init__()
        self.key = key
        self.down, self.up = merger.down, merger.up
        self.prefix, self.count_b = merger.prefix, len(merger.set_b)
        self.ties = ties
        stay = slots_of(self.prefix, self.count_b, leave)
        self.register_buffer("stay", stay, persistent=False)

    def match(self, x: torch.Tensor, turn: torch.Tensor | None = None) -> torch.Tensor:
        """Match the A tokens of normalised tokens (B, N, C); return indices (B, Na) in set B.

        Keys and scores are computed for the other tokens too: they are few, and leaving rows out
        before the argmax costs a GPU one more kernel than it saves.
        """
        metric = refine(self.key(in_type_of(x, self.key), turn), self.down, self.up)
        end_b = self.prefix + self.count_b
        target = normalise(metric[:, self.prefix : end_b])
        if self.ties == "reference":
            source = normalise(metric[:, end_b:])
            return argmax_match(source @ target.transpose(1, 2), drop_ties=True)
        # An argmax does not see the length of its row's key.
        return argmax_match(metric @ target.transpose(1, 2))[:, end_b:]

    def forward(
        self,
        tokens: torch.Tensor,
        normalised: torch.Tensor,
        sizes: torch.Tensor | None,
        turn: torch.Tensor | None = None,
    ) -> FrozenMerged:
        """Merge (B, N, C) residual tokens; see `MergingModule.frozen`."""
        match = self.match(normalised, turn)
        index = match + self.prefix
        if self.ties == "reference":
            index = torch.where(match < 0, match, index)
        own = torch.arange(self.prefix + self.count_b, device=match.device)
        slot = torch.cat([own.expand(match.shape[0], -1), index], dim=1)
        chosen = chosen_by(slot, self.stay)
        merged, size = averaged(tokens, chosen, sizes)
        return FrozenMerged(merged, size, match, chosen)


class Fpet:
    """FPET, for the registry; see `fpet_export.model.mergers.TokenMerger`."""

    title = "FPET"

    def settled(self, asked: str) -> str:
        """Return the block without leading zeros: a refinement is known by this text."""
        found = _ASKED.fullmatch(asked)
        return asked if found is None else f"fpet@{int(found[1])}"

    def steps(self, spec: VitSpec, asked: str) -> tuple[MergeStep, ...]:
        """Return the one step of "fpet@N", in which all of set A joins set B."""
        found = _ASKED.fullmatch(asked)
        if found is None or int(found[1]) >= spec.depth:
            raise UsageError(
                f"{asked!r} names no block of 0 to {spec.depth - 1}",
                where="merger fpet",
                fix="fpet@6 merges after the attention of block 6; count blocks from 0",
            )
        count = len(partition(spec.grid)[0])
        return (MergeStep(block=int(found[1]), before=spec.tokens, merged=count, sources=count),)

    def layers(self, head_width: int) -> tuple[Layer, ...]:
        """Return the two layers of the refinement adapter."""
        return (
            Layer(name="refinement.adapter_down", shape=(REFINEMENT_WIDTH, head_width)),
            Layer(name="refinement.adapter_up", shape=(head_width, REFINEMENT_WIDTH)),
        )

    def macs(self, spec: VitSpec, step: MergeStep) -> int:
        """Return what match and merge take; both run over all tokens."""
        target, head = len(partition(spec.grid)[1]), spec.head_width
        metric = spec.tokens * (spec.metric_macs + 2 * head * REFINEMENT_WIDTH)
        return metric + spec.tokens * target * head + step.after * spec.tokens * spec.width

    def attach(
        self, spec: VitSpec, step: MergeStep, refinement: tuple[torch.Tensor, torch.Tensor] | None
    ) -> ReferenceMerger:
        """Return the merge as it was trained."""
        down, up = refinement or (None, None)
        return ReferenceMerger(step, spec.grid, len(spec.prefix), down=down, up=up)

    def joined(
        self, grid: tuple[int, int], prefix: int, step: MergeStep, match: IntArray
    ) -> tuple[IntArray, IntArray]:
        """Return which of set B each patch is in, and set B."""
        set_a, set_b = partition(grid)
        out = np.empty(len(set_a) + len(set_b), np.int64)
        out[set_b], out[set_a] = np.arange(len(set_b)), match
        return out, set_b


MERGER: TokenMerger = Fpet()
