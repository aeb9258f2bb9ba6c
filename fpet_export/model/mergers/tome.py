"""ToMe: in every block the r most similar pairs of tokens of two alternating sets become one.

Tokens alternate between sets A and B, counted from the first token of all, prefix included. Every A
token finds its most similar B token by the cosine of their head-averaged keys; the r best of these
pairs merge, weighted by how many patches each token stands for. What stays of A comes before B in
the next block.

Differences from the authors' code: any number of prefix tokens is protected, on both sides; what
stays of A keeps its order in networks without a class token, too; an increasing slope ends at 2 r,
where floating point makes some of theirs one less; of equal scores the first wins.
A merge in the last block of a network whose head reads the class token alone changes nothing that
is read, and is left out.

Source: Bolya et al., "Token Merging: Your ViT But Faster", ICLR 2023, section 3.
"""

from __future__ import annotations

import re

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from engines.errors import UsageError
from engines.manifest import MergeStep
from fpet_export.model.mergers import (
    FrozenMerged,
    IntArray,
    MergingModule,
    Reads,
    TokenMerger,
    is_unread,
)
from fpet_export.model.mergers._slots import (
    averaged,
    chosen_by,
    in_type_of,
    normalise,
    ranks,
    slots_of,
    won_by,
)
from fpet_export.model.merging import Attended, Merged
from fpet_export.model.methods import Layer
from fpet_export.model.vit_spec import VitSpec

_NUMBER = "[0-9]{1,4}"
_ASKED = re.compile(
    f"tome:r=({_NUMBER}(?:,{_NUMBER})*)(?:,(increasing|decreasing))?(?:@({_NUMBER})-({_NUMBER}))?"
)


def schedule(asked: str, depth: int) -> tuple[int, ...]:
    """Return the r of every block.

    Args:
        asked: "tome:r=8"; "tome:r=16@3-9" in blocks 3 to 9 alone; "tome:r=8,decreasing" from 2 r
            to nothing in equal steps, "increasing" the other way; "tome:r=0,0,8,8" block by block.
        depth: Number of blocks.

    Raises:
        UsageError: It is none of these, or about other blocks than there are.
    """
    fix = "write tome:r=8, tome:r=16@3-9, tome:r=8,decreasing, or one number for every block"
    found = _ASKED.fullmatch(asked)
    if found is None:
        raise UsageError(f"{asked!r} is no schedule of ToMe", where="--merge", fix=fix)
    numbers = [int(number) for number in found[1].split(",")]
    if len(numbers) > 1:
        if len(numbers) != depth or found[2] or found[3]:
            raise UsageError(
                f"{len(numbers)} numbers for {depth} blocks", where=f"--merge {asked}", fix=fix
            )
        return tuple(numbers)
    first, last = (int(found[3]), int(found[4])) if found[3] else (0, depth - 1)
    if not first <= last < depth:
        raise UsageError(
            f"blocks {first} to {last} are not among 0 to {depth - 1}",
            where=f"--merge {asked}",
            fix=fix,
        )
    amounts = _slope(numbers[0], last - first + 1, found[2])
    return (*[0] * first, *amounts, *[0] * (depth - 1 - last))


def _slope(r: int, blocks: int, kind: str | None) -> list[int]:
    if kind is None or blocks == 1:
        return [r] * blocks
    rising = [int(2 * r * index / (blocks - 1)) for index in range(blocks)]
    falling = [int(2 * r - 2 * r * index / (blocks - 1)) for index in range(blocks)]
    return rising if kind == "increasing" else falling


def alternate(before: int, prefix: int) -> tuple[IntArray, IntArray]:
    """Return the patches of set A and of set B, numbered from the first patch."""
    patches = np.arange(before - prefix, dtype=np.int64)
    is_a = (patches + prefix) % 2 == 0
    return patches[is_a], patches[~is_a]


class ToMeMerge(MergingModule):
    """The merge of one block."""

    set_a: torch.Tensor
    set_b: torch.Tensor

    def __init__(self, step: MergeStep, prefix: int) -> None:
        super().__init__()
        self.step, self.prefix = step, prefix
        set_a, set_b = alternate(step.before, prefix)
        self.register_buffer("set_a", torch.from_numpy(set_a), persistent=False)
        self.register_buffer("set_b", torch.from_numpy(set_b), persistent=False)

    @property
    def order(self) -> torch.Tensor:
        """Set A, then set B."""
        return torch.cat([self.set_a, self.set_b])

    def frozen(self, reads: Reads, *, ties: str, leave: torch.Tensor | None) -> FrozenToMe:
        """Return the match by argmax, the choice by comparison, and the merge."""
        return FrozenToMe(self, reads.mean_key(), leave)

    def forward(
        self, tokens: torch.Tensor, attended: Attended, size: torch.Tensor | None
    ) -> Merged:
        """Merge (B, N, C) tokens by their keys."""
        metric = normalise(attended.keys.mean(dim=1))[:, self.prefix :]
        scores = metric[:, self.set_a] @ metric[:, self.set_b].transpose(1, 2)
        best, partner = scores.max(dim=-1)
        by_score = best.argsort(dim=-1, descending=True, stable=True)
        merged = torch.zeros_like(best, dtype=torch.bool)
        merged.scatter_(1, by_score[:, : self.step.merged], True)
        weight = tokens.new_ones(*tokens.shape[:2], 1) if size is None else size
        sums = torch.cat([tokens * weight, weight], dim=-1)
        left, joined = sums[:, self.prefix :][:, self.set_a], sums[:, self.prefix :][:, self.set_b]
        batch, staying = len(tokens), len(self.set_a) - self.step.merged
        width = sums.shape[-1]
        moved = left[merged].reshape(batch, self.step.merged, width)
        target = partner[merged].reshape(batch, self.step.merged, 1).expand(-1, -1, width)
        kept = left[~merged].reshape(batch, staying, width)
        out = torch.cat([sums[:, : self.prefix], kept, joined.scatter_add(1, target, moved)], dim=1)
        sizes = out[..., -1:]
        return Merged(
            tokens=out[..., :-1] / sizes,
            size=sizes,
            match=torch.where(merged, partner, -1),
            margin=_margin(scores, best, merged),
        )


def _margin(scores: torch.Tensor, best: torch.Tensor, merged: torch.Tensor) -> torch.Tensor:
    """Return (B, Na) how far each choice is from another one: of the partner, or of the r best."""
    inside = best.masked_fill(~merged, torch.inf).amin(dim=-1, keepdim=True)
    outside = best.masked_fill(merged, -torch.inf).amax(dim=-1, keepdim=True)
    chosen = torch.minimum(best - outside, won_by(scores))
    return torch.where(merged, chosen, inside - best)


class FrozenToMe(nn.Module):
    """The merge on tokens in the order prefix, set A, set B."""

    front: torch.Tensor
    back: torch.Tensor
    stay: torch.Tensor
    earlier: torch.Tensor

    def __init__(self, merge: ToMeMerge, key: nn.Module, leave: torch.Tensor | None) -> None:
        super().__init__()
        self.key, self.prefix, self.merged = key, merge.prefix, merge.step.merged
        self.count_a, count_b = len(merge.set_a), len(merge.set_b)
        self.staying = self.count_a - self.merged
        own = torch.arange(self.prefix + self.staying, self.prefix + self.staying + count_b)
        self.register_buffer("front", torch.arange(self.prefix).float()[None], persistent=False)
        self.register_buffer("back", own.float()[None], persistent=False)
        stay = slots_of(self.prefix, self.staying + count_b, leave)
        self.register_buffer("stay", stay.float(), persistent=False)
        earlier = torch.ones(self.count_a, self.count_a).triu(1)
        self.register_buffer("earlier", earlier, persistent=False)

    def forward(
        self,
        tokens: torch.Tensor,
        normalised: torch.Tensor,
        sizes: torch.Tensor | None,
        turn: torch.Tensor | None = None,
    ) -> FrozenMerged:
        """Merge (B, N, C) residual tokens; see `MergingModule.frozen`."""
        metric = normalise(self.key(in_type_of(normalised, self.key), turn))[:, self.prefix :]
        scores = metric[:, : self.count_a] @ metric[:, self.count_a :].transpose(1, 2)
        merges = ranks(scores.amax(dim=-1)) < self.merged
        match = torch.where(merges, scores.argmax(dim=-1), -1)
        # What stays of A comes in its order: as many of A before it stay, so many slots before it.
        dtype = self.earlier.dtype
        place = (1.0 - merges.to(dtype)) @ self.earlier
        target = torch.where(merges, match.to(dtype) + self.staying, place) + self.prefix
        batch = tokens.shape[0]
        parts = [self.front.expand(batch, -1), target, self.back.expand(batch, -1)]
        chosen = chosen_by(torch.cat(parts, dim=1), self.stay)
        merged, size = averaged(tokens, chosen, sizes)
        stays = F.pad(1.0 - merges.to(dtype), (self.prefix, self.back.shape[1]), value=1.0)
        return FrozenMerged(merged, size, match, chosen, kept=chosen * stays[:, None, :])


class ToMe:
    """ToMe, for the registry; see `fpet_export.model.mergers.TokenMerger`."""

    title = "ToMe"

    def settled(self, asked: str) -> str:
        """Return the same: it names no file."""
        return asked

    def steps(self, spec: VitSpec, asked: str) -> tuple[MergeStep, ...]:
        """Return one step for every block that merges any token."""
        prefix, now, found = len(spec.prefix), spec.tokens, []
        for block, r in enumerate(schedule(asked, spec.depth)):
            r = min(r, (now - prefix) // 2)
            if r == 0 or is_unread(spec, block):
                continue
            sources = len(alternate(now, prefix)[0])
            found.append(MergeStep(block=block, before=now, merged=r, sources=sources))
            now = found[-1].after
        return tuple(found)

    def layers(self, head_width: int) -> tuple[Layer, ...]:
        """Return none: it is not trained."""
        return ()

    def macs(self, spec: VitSpec, step: MergeStep) -> int:
        """Return what match and merge take; the keys are averaged once more for the match."""
        head, targets = spec.head_width, step.before - len(spec.prefix) - step.sources
        metric = step.before * spec.metric_macs
        match = step.sources * targets * head + step.sources**2
        return metric + match + step.after * step.before * spec.width

    def attach(
        self, spec: VitSpec, step: MergeStep, refinement: tuple[torch.Tensor, torch.Tensor] | None
    ) -> ToMeMerge:
        """Return the merge of one block."""
        return ToMeMerge(step, len(spec.prefix))

    def joined(
        self, grid: tuple[int, int], prefix: int, step: MergeStep, match: IntArray
    ) -> tuple[IntArray, IntArray]:
        """Return which patch each one is in; what stays of set A comes before set B."""
        set_a, set_b = alternate(step.before, prefix)
        out = np.empty(step.before - prefix, np.int64)
        stays, staying = match < 0, int((match < 0).sum())
        out[set_b] = staying + np.arange(len(set_b))
        out[set_a] = np.where(stays, np.cumsum(stays) - 1, staying + match)
        return out, np.concatenate([set_a[stays], set_b])


MERGER: TokenMerger = ToMe()
