"""Token mergers: one file a merger.

Each file ends in `MERGER: TokenMerger = …`, so that the type checker checks the promise where it
is made. Where tokens merge is asked of `fpet_export.model.merge_plan`, how they do of the merger:
nothing outside this folder imports one by its name.
"""

from __future__ import annotations

import abc
from typing import Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from engines import registry
from fpet_export.model import mergers
from fpet_export.model.methods import Layer
from fpet_export.model.vit import Trace, VitSpec

PUBLISHED = "fpet"
"""The merger of every checkpoint format there is: none of them names it, all of them mean it."""


class MergingModule(nn.Module, abc.ABC):
    """A merger in one network, as it was trained; see `fpet_export.model.vit.Merger`."""

    @property
    @abc.abstractmethod
    def order(self) -> torch.Tensor:
        """(P,) patches in the order in which the frozen graph keeps them: then it never gathers."""

    @property
    @abc.abstractmethod
    def remaining(self) -> int:
        """Tokens that leave the block which merges."""

    @abc.abstractmethod
    def frozen(self, key: nn.Module, ties: str) -> nn.Module:
        """Return the merge with static shapes, on tokens in the order prefix, then `order`.

        Its `forward(tokens, normalised)` takes (B, N, C) tokens after the attention of the block
        was added, and what that attention read; it returns tokens (B, N', C), sizes (B, N') and
        the match (B, Na).

        Args:
            key: Turns normalised tokens into the head average of their keys (B, N, D).
            ties: See `fpet_export.graph.options.FreezeOptions`.
        """

    @abc.abstractmethod
    def forward(
        self, tokens: torch.Tensor, keys: torch.Tensor, trace: Trace | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Merge (B, N, C) tokens by (B, H, N, D) keys."""


class TokenMerger(Protocol):
    """What the exporter needs to know about a token merger."""

    @property
    def title(self) -> str:
        """The merger's name as its paper writes it."""

    def partition(self, grid: tuple[int, int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return raster indices of the patches that merge (Na,), and of those they join (Nb,).

        Raises:
            InputError: The grid is too small to merge on.
        """

    def tokens_after(self, spec: VitSpec) -> int:
        """Return the tokens that a merge leaves of a network's tokens."""

    def layers(self, head_width: int) -> tuple[Layer, Layer]:
        """Return the layers that it was trained with, as checkpoints store them."""

    def macs(self, spec: VitSpec) -> int:
        """Return the multiply-adds of one merge in the frozen graph."""

    def attach(
        self, spec: VitSpec, refinement: tuple[torch.Tensor, torch.Tensor] | None
    ) -> MergingModule:
        """Return the merge of one network, with the weights of `layers` where there are any."""


def load(name: str = PUBLISHED) -> TokenMerger:
    """Return the merger of this name; see `engines.registry.load` for the errors."""
    return cast(TokenMerger, registry.load(mergers, name).MERGER)
