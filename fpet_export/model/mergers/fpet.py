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

from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from engines.errors import InputError
from fpet_export.model.mergers import MergingModule, TokenMerger
from fpet_export.model.methods import Layer
from fpet_export.model.vit import Trace, VitSpec

REFINEMENT_WIDTH = 32
"""Inner width of the refinement adapter in every published run."""

NORM_EPSILON = 1e-12
"""Smallest squared norm that is divided by: far below any real key, above zero."""


def partition(grid: tuple[int, int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
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
            fix="export without merging: --merge-block none",
        )
    raster = np.arange(rows * columns, dtype=np.int64).reshape(rows, columns)
    set_a = np.concatenate([raster[0::2, 0::2].ravel(), raster[1::2, 1::2].ravel()])
    set_b = np.concatenate([raster[1::2, 0::2].ravel(), raster[0::2, 1::2].ravel()])
    return set_a, set_b


def tokens_after(grid: tuple[int, int], prefix: int) -> int:
    """Return the number of tokens that remain: the prefix and set B."""
    return prefix + len(partition(grid)[1])


def normalise(metric: torch.Tensor) -> torch.Tensor:
    """Scale (…, D) to unit length."""
    # clamp, not an addition: PyTorch's exporter drops `x + 1e-12` as adding nothing.
    squared = (metric * metric).sum(dim=-1, keepdim=True).clamp(min=NORM_EPSILON)
    return metric / squared.sqrt()


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


def merge(
    tokens_a: torch.Tensor, tokens_b: torch.Tensor, match: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Average every A token into the B token it is matched to; all sizes are one before.

    Args:
        tokens_a: (B, Na, C).
        tokens_b: (B, Nb, C).
        match: (B, Na, Nb) one-hot rows; an all-zero row drops its token.

    Returns:
        Tokens (B, Nb, C) and their sizes (B, Nb, 1).
    """
    to_b = match.transpose(1, 2)
    size = 1 + to_b.sum(dim=-1, keepdim=True)
    return (tokens_b + to_b @ tokens_a) / size, size


def merge_by_index(
    tokens: torch.Tensor, match: torch.Tensor, keep: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Average every A token into the B token it is matched to, in one product.

    The product goes over all tokens: those that stay are matched to themselves. So nothing is
    cut out of the residual stream and nothing is put together again, which would each be a
    kernel on a GPU.

    Args:
        tokens: (B, N, C) in the order prefix, set B, set A.
        match: (B, Na) index among the tokens that stay; a negative one drops its token.
        keep: Tokens that stay, N'.

    Returns:
        Tokens (B, N', C) and their sizes (B, N'), which are float32: whole numbers up to N.
    """
    stay = torch.arange(keep, device=match.device)
    target = torch.cat([stay.expand(match.shape[0], -1), match], dim=1)
    chosen = (target[:, None, :] == stay[:, None]).float()
    size = chosen.sum(dim=-1)
    mixed = chosen.to(tokens.dtype) @ tokens
    return mixed / size.to(tokens.dtype).unsqueeze(-1), size


class ReferenceMerger(MergingModule):
    """The merge as it was trained: sigmoid match on the refined, head-averaged keys."""

    set_a: torch.Tensor
    set_b: torch.Tensor

    def __init__(
        self,
        grid: tuple[int, int],
        prefix: int,
        *,
        down: torch.Tensor | None = None,
        up: torch.Tensor | None = None,
    ) -> None:
        super().__init__()
        self.prefix = prefix
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
    def remaining(self) -> int:
        """The prefix and set B."""
        return self.prefix + len(self.set_b)

    def frozen(self, key: nn.Module, ties: str) -> FrozenMerge:
        """Return the match by argmax and the merge; see `MergingModule`."""
        return FrozenMerge(key, self, ties)

    def forward(
        self, tokens: torch.Tensor, keys: torch.Tensor, trace: Trace | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Merge (B, N, C) tokens by (B, H, N, D) keys; see `fpet_export.model.vit.Merger`."""
        metric = normalise(refine(keys.mean(dim=1), self.down, self.up))
        scores = metric[:, self.set_a] @ metric[:, self.set_b].transpose(1, 2)
        match = reference_match(scores)
        merged, size = merge(tokens[:, self.set_a], tokens[:, self.set_b], match)
        kept = tokens[:, : self.prefix]
        ones = size.new_ones(len(size), self.prefix, 1)
        size = torch.cat([ones, size], dim=1)
        if trace is not None:
            _record(trace, scores, match, size)
        return torch.cat([kept, merged], dim=1), size


def _record(trace: Trace, scores: torch.Tensor, match: torch.Tensor, size: torch.Tensor) -> None:
    dropped = match.sum(dim=-1) == 0
    trace.match = scores.argmax(dim=-1).masked_fill(dropped, -1)
    if scores.shape[-1] > 1:
        best = scores.topk(2, dim=-1).values
        trace.margin = best[..., 0] - best[..., 1]
    else:
        trace.margin = torch.full_like(scores[..., 0], torch.inf)
    trace.size = size.squeeze(-1)


class FrozenMerge(nn.Module):
    """Match by argmax and merge, on tokens in the order prefix, set B, set A.

    The metric is the head average of the keys. It comes from an averaged key weight applied to
    the same normalised tokens (the same algebra), so that the keys stay private to a fused
    attention kernel.
    """

    def __init__(self, key: nn.Module, merger: ReferenceMerger, ties: str) -> None:
        super().__init__()
        self.key = key
        self.down, self.up = merger.down, merger.up
        self.prefix, self.count_b = merger.prefix, len(merger.set_b)
        self.ties = ties

    def match(self, x: torch.Tensor) -> torch.Tensor:
        """Match the A tokens of normalised tokens (B, N, C); return indices (B, Na) in set B.

        Keys and scores are computed for the other tokens too: they are few, and leaving rows out
        before the argmax costs a GPU one more kernel than it saves.
        """
        metric = refine(
            self.key(x.to(cast(torch.Tensor, self.key.weight).dtype)), self.down, self.up
        )
        end_b = self.prefix + self.count_b
        target = normalise(metric[:, self.prefix : end_b])
        if self.ties == "reference":
            source = normalise(metric[:, end_b:])
            return argmax_match(source @ target.transpose(1, 2), drop_ties=True)
        # An argmax does not see the length of its row's key.
        return argmax_match(metric @ target.transpose(1, 2))[:, end_b:]

    def forward(
        self, tokens: torch.Tensor, normalised: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Merge (B, N, C) residual tokens.

        Args:
            tokens: After the attention of this block was added.
            normalised: What that attention read, LN1 of the tokens before it.

        Returns:
            Tokens (B, N', C) in the order prefix, set B; sizes (B, N'); match (B, Na).
        """
        match = self.match(normalised)
        index = match + self.prefix
        if self.ties == "reference":
            index = torch.where(match < 0, match, index)
        merged, sizes = merge_by_index(tokens, index, self.prefix + self.count_b)
        return merged, sizes, match


class Fpet:
    """FPET, for the registry; see `fpet_export.model.mergers.TokenMerger`."""

    title = "FPET"

    def partition(self, grid: tuple[int, int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return sets A and B."""
        return partition(grid)

    def tokens_after(self, spec: VitSpec) -> int:
        """Return the prefix and set B."""
        return tokens_after(spec.grid, len(spec.prefix))

    def layers(self, head_width: int) -> tuple[Layer, Layer]:
        """Return the two layers of the refinement adapter."""
        return (
            Layer(name="refinement.adapter_down", shape=(REFINEMENT_WIDTH, head_width)),
            Layer(name="refinement.adapter_up", shape=(head_width, REFINEMENT_WIDTH)),
        )

    def macs(self, spec: VitSpec) -> int:
        """Return what match and merge take; both run over all tokens."""
        target, head = len(partition(spec.grid)[1]), spec.head_width
        metric = spec.tokens * (spec.width * head + 2 * head * REFINEMENT_WIDTH)
        stay = self.tokens_after(spec)
        return metric + spec.tokens * target * head + stay * spec.tokens * spec.width

    def attach(
        self, spec: VitSpec, refinement: tuple[torch.Tensor, torch.Tensor] | None
    ) -> ReferenceMerger:
        """Return the merge as it was trained."""
        down, up = refinement or (None, None)
        return ReferenceMerger(spec.grid, len(spec.prefix), down=down, up=up)


MERGER: TokenMerger = Fpet()
