"""Token mergers: one file a merger.

A merger turns what the user asks for, such as "tome:r=8", into a plan: at most one `MergeStep` a
block, whose token counts are known before anything runs. Each step has two statements: a module
that merges as the paper says it (`MergingModule.forward`), and one with static shapes for the graph
(`MergingModule.frozen`).

Each file ends in `MERGER: TokenMerger = …`, so that the type checker checks the promise where it
is made. Where tokens merge is asked of `fpet_export.model.merge_plan`, how they do of the merger:
nothing outside this folder imports one by its name.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from typing import NamedTuple, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from engines import registry
from engines.manifest import MergeStep
from fpet_export.model import mergers
from fpet_export.model.merging import Attended, Merged
from fpet_export.model.methods import Layer
from fpet_export.model.vit_spec import VitSpec

IntArray = NDArray[np.int64]

PUBLISHED = "fpet"
"""The merger of the FPET authors' runs: none of them names it, all of them mean it."""


class FrozenMerged(NamedTuple):
    """What a frozen merge returns.

    Attributes:
        tokens: (B, N', C).
        sizes: (B, N') float32 patches that each token stands for.
        match: (B, Na) as in `fpet_export.model.merging.Merged`.
        chosen: (B, N', N) float32: one where a token is part of one that leaves, else zero.
        kept: (B, N', N) float32: one at the token whose position one that leaves takes; None of a
            merge that knows it before (`MergingModule.keeps`).
    """

    tokens: torch.Tensor
    sizes: torch.Tensor
    match: torch.Tensor
    chosen: torch.Tensor
    kept: torch.Tensor | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reads:
    """What a frozen merge may read of its block besides the tokens, each by a module of its own.

    Where positions are rotary, both modules read the sines and cosines of the block, too.

    Attributes:
        mean_key: Makes the module that turns normalised tokens (B, N, C) into the head average of
            their keys (B, N, D).
        class_attention: Makes the module that turns normalised tokens (B, N, C) and the sizes
            (B, N) or None into `Attended.of_class_token` (B, N).
    """

    mean_key: Callable[[], nn.Module]
    class_attention: Callable[[], nn.Module]


class MergingModule(nn.Module, abc.ABC):
    """The merge of one block, as its paper states it; see `fpet_export.model.merging.Merger`.

    Tokens come in the order prefix, patches, and leave so.

    Attributes:
        step: What it does to the tokens.
        joined: What its match did to the patches of one image, see `TokenMerger.joined`.
    """

    step: MergeStep
    joined: Callable[[IntArray], tuple[IntArray, IntArray]]

    def places(self, match: torch.Tensor) -> torch.Tensor:
        """Return (B, P) which patch that leaves each one that enters is in, -1 where it is lost."""
        found = [self.joined(one)[0] for one in match.numpy()]
        return torch.from_numpy(np.stack(found))

    def takes(self, match: torch.Tensor) -> torch.Tensor:
        """Return (B, N') the token whose position each one that leaves takes, prefix included."""
        patches = torch.from_numpy(np.stack([self.joined(one)[1] for one in match.numpy()]))
        prefix = self.step.after - patches.shape[1]
        return torch.cat([torch.arange(prefix).expand(len(match), -1), prefix + patches], dim=1)

    @property
    def order(self) -> torch.Tensor | None:
        """(P,) patches that enter, in the order in which the frozen form takes them.

        The embedding or the merge before leaves them so, and nothing is gathered. None keeps the
        order that they have.
        """
        return None

    @property
    def keeps(self) -> torch.Tensor | None:
        """(P',) patches that enter whose positions those that leave take.

        None where that differs from image to image.
        """
        return None

    @abc.abstractmethod
    def frozen(self, reads: Reads, *, ties: str, leave: torch.Tensor | None) -> nn.Module:
        """Return the merge with static shapes, on tokens in the order prefix, then `order`.

        Its `forward(tokens, normalised, sizes, turn)` takes (B, N, C) tokens after the attention of
        the block was added, what that attention read, their (B, N) sizes or None while all are one,
        and the sines and cosines of rotary positions or None; it returns `FrozenMerged`.

        Args:
            reads: What it may read of the block.
            ties: See `fpet_export.graph.options.FreezeOptions`.
            leave: (P',) order in which the patches that leave are wanted, or None.
        """

    @abc.abstractmethod
    def forward(
        self, tokens: torch.Tensor, attended: Attended, size: torch.Tensor | None
    ) -> Merged:
        """Merge (B, N, C) tokens."""


class TokenMerger(Protocol):
    """What the exporter needs to know about a token merger."""

    @property
    def title(self) -> str:
        """The merger's name as its paper writes it."""

    def settled(self, asked: str) -> str:
        """Return what is asked for without any file that it names, for a manifest.

        Raises:
            UsageError: A part of the file must be named.
            InputError: The file cannot be read.
        """

    def steps(self, spec: VitSpec, asked: str) -> tuple[MergeStep, ...]:
        """Return what is asked for, such as "fpet@6", as steps of the blocks that merge.

        Raises:
            UsageError: It asks for what the network lacks.
            InputError: The grid is too small to merge on, or a file that it names cannot be read.
        """

    def layers(self, head_width: int) -> tuple[Layer, ...]:
        """Return the layers that it was trained with, as checkpoints store them."""

    def macs(self, spec: VitSpec, step: MergeStep) -> int:
        """Return the multiply-adds of one merge in the frozen graph."""

    def attach(
        self,
        spec: VitSpec,
        step: MergeStep,
        refinement: tuple[torch.Tensor, torch.Tensor] | None,
    ) -> MergingModule:
        """Return the merge of one block, with the weights of `layers` where there are any."""

    def joined(
        self, grid: tuple[int, int], prefix: int, step: MergeStep, match: IntArray
    ) -> tuple[IntArray, IntArray]:
        """Return what a match did to the patches of one image.

        Args:
            grid: (rows, columns) of patches before any merge.
            prefix: Tokens in front of them.
            step: The step that made the match.
            match: (Na,).

        Returns:
            (P,) which of the patches that leave each patch that enters is in, -1 where it is lost;
            and (P',) the patch that enters whose place each one that leaves has taken.
        """


def is_unread(spec: VitSpec, block: int) -> bool:
    """Return whether a merge in this block changes nothing that the head reads."""
    return block == spec.depth - 1 and spec.read_tokens is not None


def load(name: str = PUBLISHED) -> TokenMerger:
    """Return the merger of this name; see `engines.registry.load` for the errors."""
    return cast(TokenMerger, registry.load(mergers, name).MERGER)
