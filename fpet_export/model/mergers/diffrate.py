"""DiffRate: every block prunes its least important tokens and merges the next ones into the rest.

Importance is what the class token attends to. Of the tokens that a block's schedule keeps from
pruning, those beyond the ones that leave join the most similar token that leaves, by the cosine of
the tokens themselves: a plain mean, and a size that counts a joined token by its similarity.

Prompts of a block alone (VPT deep) take no part in the importance; no paper says whether they do.
Differences from the authors' code: tokens that leave keep their order, which a ViT does not see;
any number of prefix tokens is protected; a size never falls below `SMALLEST_SIZE`, of which the
next block takes the logarithm; of equal numbers the first wins. A merge in the last block of a
network whose head reads the class token alone changes nothing that is read, and is left out.

Source: Chen et al., "DiffRate: Differentiable Compression Rate for Efficient Vision Transformers",
ICCV 2023, section 3.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from engines.errors import InputError, UsageError
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

SMALLEST_SIZE = 1e-3
_NUMBERS = re.compile(r"diffrate:([0-9]{1,6}-[0-9]{1,6}(?:,[0-9]{1,6}-[0-9]{1,6})*)")
_KEPT = ("prune_kept_num", "merge_kept_num")
_FIX = 'give JSON as {"prune_kept_num": [197, 192], "merge_kept_num": [197, 178]}'


def read_schedule(text: str) -> list[tuple[int, int]]:
    """Return the tokens of every block after pruning and after merging, prefix included.

    Args:
        text: "diffrate:FILE" with the schedule, "diffrate:FILE#ViT-B-DeiT/10.0" of several in a
            file of the authors' code, or the numbers themselves, "diffrate:197-197,192-178,…".

    Raises:
        InputError: The file cannot be read or holds no schedule.
        UsageError: It holds several, and none of them is named.
    """
    found = _NUMBERS.fullmatch(text)
    if found is not None:
        pairs = [pair.split("-") for pair in found[1].split(",")]
        return [(int(pruned), int(merged)) for pruned, merged in pairs]
    name, _, inside = text.removeprefix("diffrate").removeprefix(":").partition("#")
    schedules = _schedules(_document(name))
    if inside not in schedules:
        if not schedules:
            raise InputError(f"the file has no {' and '.join(_KEPT)}", where=name, fix=_FIX)
        names = [one for one in schedules if one]
        if not names:
            raise UsageError(
                f"the file holds one schedule, without the name {inside!r}",
                where=name,
                fix=f"leave the name out: --merge diffrate:{name}",
            )
        what = f"there is no schedule {inside!r}; the file" if inside else "the file"
        raise UsageError(
            f"{what} holds several schedules: {', '.join(names[:8])}",
            where=name,
            fix=f"name one: --merge 'diffrate:{name}#{names[0]}'",
        )
    kept = [_numbers(schedules[inside], key, name) for key in _KEPT]
    if len(kept[0]) != len(kept[1]):
        raise InputError(
            f"{len(kept[0])} numbers for pruning and {len(kept[1])} for merging",
            where=name,
            fix="give one of each for every block",
        )
    return list(zip(*kept, strict=True))


def _document(name: str) -> Any:
    if not name:
        raise UsageError("no file is named", where="--merge diffrate", fix="--merge diffrate:FILE")
    try:
        return json.loads(Path(name).read_text("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        what = getattr(error, "strerror", None) or error
        raise InputError(f"the schedule cannot be read: {what}", where=name, fix=_FIX) from error


def _schedules(document: Any, path: str = "") -> dict[str, dict[str, Any]]:
    """Return the schedules in a document by their names, "" for one that is the document."""
    if not isinstance(document, dict):
        return {}
    if any(key in document for key in _KEPT):
        return {path: document}
    found: dict[str, dict[str, Any]] = {}
    for key, inside in document.items():
        found |= _schedules(inside, f"{path}/{key}" if path else str(key))
    return found


def _numbers(schedule: dict[str, Any], key: str, where: str) -> list[int]:
    """Return the whole numbers of a list, or of a list in a string, as the authors' file has it."""
    value = schedule.get(key)
    try:
        value = json.loads(value) if isinstance(value, str) else value
    except ValueError:
        value = None
    if not isinstance(value, list) or not value or not all(type(n) is int and n > 0 for n in value):
        raise InputError(
            f"{key} is no list of whole numbers",
            where=where,
            fix="give the tokens that every block keeps, prefix included",
        )
    return value


class DiffRateMerge(MergingModule):
    """What one block prunes and merges."""

    def __init__(self, step: MergeStep, prefix: int) -> None:
        super().__init__()
        self.step, self.prefix = step, prefix
        self.kept = step.after - prefix
        self.unpruned = step.before - step.pruned - prefix

    def frozen(self, reads: Reads, *, ties: str, leave: torch.Tensor | None) -> FrozenDiffRate:
        """Return ranks by comparison, the match by argmax, and the merge."""
        return FrozenDiffRate(self, reads.class_attention(), leave)

    def forward(
        self, tokens: torch.Tensor, attended: Attended, size: torch.Tensor | None
    ) -> Merged:
        """Prune and merge (B, N, C) tokens."""
        batch, count, width = tokens.shape
        importance = attended.of_class_token()[:, self.prefix :]
        order = importance.argsort(dim=-1, descending=True, stable=True)
        stays = order[:, : self.kept].sort(dim=-1).values
        joins = order[:, self.kept : self.unpruned]
        patches = tokens[:, self.prefix :]
        sizes = tokens.new_ones(batch, count, 1) if size is None else size
        unit = normalise(patches)
        out, out_size = _rows(patches, stays), _rows(sizes[:, self.prefix :], stays)
        own = torch.arange(count - self.prefix, device=tokens.device)
        match = own.expand(batch, -1).clone()
        match.scatter_(1, order[:, self.kept :], -1)
        margin = _distance(importance, order, (self.kept, self.unpruned))
        if self.unpruned > self.kept:
            scores = _rows(unit, joins) @ _rows(unit, stays).transpose(1, 2)
            best, partner = scores.max(dim=-1, keepdim=True)
            target = partner.expand(-1, -1, width)
            out = out.scatter_reduce(1, target, _rows(patches, joins), "mean")
            moved = _rows(sizes[:, self.prefix :], joins) * best
            out_size = out_size.scatter_add(1, partner, moved)
            match.scatter_(1, joins, stays.gather(1, partner.squeeze(-1)))
            # Where another patch may stay as well, each of those that join may join that one.
            ordered = importance.gather(1, order)
            gap = ordered[:, self.kept - 1] - ordered[:, self.kept]
            won = margin.gather(1, joins).minimum(won_by(scores)).minimum(gap[:, None])
            margin = margin.scatter(1, joins, won)
        return Merged(
            tokens=torch.cat([tokens[:, : self.prefix], out], dim=1),
            size=torch.cat([sizes[:, : self.prefix], out_size.clamp(min=SMALLEST_SIZE)], dim=1),
            match=match,
            margin=margin,
        )


def _rows(x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Return the rows (B, M) of (B, P, C)."""
    return x.gather(1, index.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


def _distance(
    importance: torch.Tensor, order: torch.Tensor, limits: tuple[int, int]
) -> torch.Tensor:
    """Return (B, P) how far each importance is from the other side of the nearest limit."""
    ordered = importance.gather(1, order)
    margin = torch.full_like(ordered, torch.inf)
    for limit in limits:
        if limit < ordered.shape[1]:
            above, below = ordered[:, limit - 1 : limit], ordered[:, limit : limit + 1]
            from_limit = torch.cat([ordered[:, :limit] - below, above - ordered[:, limit:]], dim=1)
            margin = margin.minimum(from_limit)
    return torch.empty_like(margin).scatter(1, order, margin)


class FrozenDiffRate(nn.Module):
    """The same with static shapes, in any order of the patches."""

    own: torch.Tensor
    stay: torch.Tensor
    front: torch.Tensor
    earlier: torch.Tensor

    def __init__(
        self, merge: DiffRateMerge, attention: nn.Module, leave: torch.Tensor | None
    ) -> None:
        super().__init__()
        self.attention, self.prefix = attention, merge.prefix
        self.kept, self.unpruned = merge.kept, merge.unpruned
        patches = merge.step.sources
        constants = {
            "own": torch.arange(patches)[None],
            "stay": slots_of(self.prefix, self.kept, leave).float(),
            "front": torch.arange(self.prefix).float()[None],
            "earlier": torch.ones(patches, patches).triu(1),
        }
        for name, value in constants.items():
            self.register_buffer(name, value, persistent=False)

    def forward(
        self,
        tokens: torch.Tensor,
        normalised: torch.Tensor,
        sizes: torch.Tensor | None,
        turn: torch.Tensor | None = None,
    ) -> FrozenMerged:
        """Prune and merge (B, N, C) residual tokens; see `MergingModule.frozen`."""
        dtype = self.earlier.dtype
        rank = ranks(
            self.attention(in_type_of(normalised, self.attention), sizes, turn)[:, self.prefix :]
        )
        kept = rank < self.kept
        place = kept.to(dtype) @ self.earlier + self.prefix
        match = torch.where(kept, self.own, -1)
        weight = sizes
        if self.unpruned > self.kept:
            unit = normalise(tokens[:, self.prefix :].to(dtype))
            scores = (unit @ unit.transpose(1, 2)).masked_fill(~kept[:, None, :], -2.0)
            joins = (rank < self.unpruned) & ~kept
            match = torch.where(joins, scores.argmax(dim=-1), match)
            # One where a patch has this partner; a row of zeros, of a lost patch, gives -1.
            partner = (match[:, :, None] == self.own[:, None, :]).to(dtype)
            target = (partner @ (place + 1).unsqueeze(-1)).squeeze(-1) - 1
            counts = torch.where(joins, scores.amax(dim=-1), 1.0)
            counts = torch.cat([torch.ones_like(counts[:, :1]).expand(-1, self.prefix), counts], 1)
            weight = counts if sizes is None else sizes * counts
        else:
            target = torch.where(match >= 0, place, -1.0)  # of the match, so that a graph shows it
        slot = torch.cat([self.front.expand(tokens.shape[0], -1), target], dim=1)
        chosen = chosen_by(slot, self.stay)
        merged, size = averaged(tokens, chosen)
        if weight is not None:
            size = (chosen @ weight.float().unsqueeze(-1)).squeeze(-1).clamp(min=SMALLEST_SIZE)
        stays = F.pad(kept.to(dtype), (self.prefix, 0), value=1.0)
        return FrozenMerged(merged, size, match, chosen, kept=chosen * stays[:, None, :])


class DiffRate:
    """DiffRate, for the registry; see `fpet_export.model.mergers.TokenMerger`."""

    title = "DiffRate"

    def settled(self, asked: str) -> str:
        """Return the numbers of the file that is named."""
        pairs = read_schedule(asked)
        return "diffrate:" + ",".join(f"{pruned}-{merged}" for pruned, merged in pairs)

    def steps(self, spec: VitSpec, asked: str) -> tuple[MergeStep, ...]:
        """Return one step for every block that keeps fewer tokens than enter it."""
        pairs, prefix, now = read_schedule(asked), len(spec.prefix), spec.tokens
        if len(pairs) != spec.depth or spec.prefix[:1] != ("cls",):
            raise UsageError(
                f"the schedule is for {len(pairs)} blocks and a class token, the network has "
                f"{spec.depth} blocks and {'a' if 'cls' in spec.prefix else 'no'} class token",
                where="--merge diffrate",
                fix="give the schedule of this architecture",
            )
        if max(pairs[0]) > spec.tokens:
            raise UsageError(
                f"the schedule begins with {max(pairs[0])} tokens, the network has {spec.tokens}",
                where="--merge diffrate",
                fix="give the schedule of this architecture at this image size",
            )
        found: list[MergeStep] = []
        for block, (unpruned, kept) in enumerate(pairs):
            unpruned = min(unpruned, now)
            kept = min(kept, unpruned)
            if kept <= prefix:
                raise UsageError(
                    f"block {block} would keep {kept} tokens, of which {prefix} are no patches",
                    where="--merge diffrate",
                    fix="keep at least one patch in every block",
                )
            if kept == now or is_unread(spec, block):
                continue
            found.append(
                MergeStep(
                    block=block,
                    before=now,
                    merged=unpruned - kept,
                    pruned=now - unpruned,
                    sources=now - prefix,
                    whole=False,
                )
            )
            now = kept
        return tuple(found)

    def layers(self, head_width: int) -> tuple[Layer, ...]:
        """Return none: only the schedule is learned."""
        return ()

    def macs(self, spec: VitSpec, step: MergeStep) -> int:
        """Return what importance, match and merge take."""
        width, patches = spec.width, step.sources
        importance = 2 * width**2 + spec.heads * width * step.before
        match = patches**2 * (width + 2) if step.merged else patches**2
        return importance + match + step.after * step.before * width

    def attach(
        self, spec: VitSpec, step: MergeStep, refinement: tuple[torch.Tensor, torch.Tensor] | None
    ) -> DiffRateMerge:
        """Return the merge of one block."""
        return DiffRateMerge(step, len(spec.prefix))

    def joined(
        self, grid: tuple[int, int], prefix: int, step: MergeStep, match: IntArray
    ) -> tuple[IntArray, IntArray]:
        """Return which patch each one is in, and those that stay."""
        stays = match == np.arange(len(match))
        place = np.cumsum(stays) - 1
        return np.where(match < 0, -1, place[match]), np.flatnonzero(stays)


MERGER: TokenMerger = DiffRate()
