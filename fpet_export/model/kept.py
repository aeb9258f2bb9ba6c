"""What a fine-tune leaves in the graph: what a branch offers, and what anything kept costs."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping
from typing import ClassVar, Literal, TypeAlias

import torch
from torch import nn

Reads: TypeAlias = Literal["norm1", "residual", "norm2", "mlp"]
"""What a branch reads: what the attention reads, the residual stream behind the attention (and
behind a merge), what the MLP reads, or what the MLP adds to the stream."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Extra:
    """Multiply-adds of what a fine-tune left in one block, for one token each.

    Attributes:
        keys: Of every token that is attended to.
        queries: Of every token that attends.
        outputs: Of every token that leaves the block.
    """

    keys: int = 0
    queries: int = 0
    outputs: int = 0

    def __add__(self, other: Extra) -> Extra:
        """Return both together."""
        return Extra(
            keys=self.keys + other.keys,
            queries=self.queries + other.queries,
            outputs=self.outputs + other.outputs,
        )


class BranchModule(nn.Module, abc.ABC):
    """A small network beside the layers of a block, or beside the patch embedding.

    What it gives is added: to what the attention adds where it reads "norm1", else to what the
    block gives. With `gates` it multiplies what the MLP adds instead.

    Attributes:
        title: What it is, for people to read.
        reads: What it is called with.
        gates: Whether the MLP's output is multiplied by what it gives.
        needs_grid: Whether it reads the patches as an image, so that all of them must be there.
    """

    title: ClassVar[str]
    reads: Reads
    gates: ClassVar[bool] = False
    needs_grid: ClassVar[bool] = False

    @abc.abstractmethod
    def shapes(self, width: int) -> Mapping[str, tuple[int, ...]]:
        """Return the shape that each tensor must have in a network of this width."""

    @abc.abstractmethod
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, N, C) as in training to (B, N, C), or to (B, N, 1) of a gate."""

    def folded(self) -> BranchModule:
        """Return the same map with as few operations as it can have."""
        return self

    @abc.abstractmethod
    def macs(self) -> int:
        """Return the multiply-adds of one token."""

    @abc.abstractmethod
    def frozen(self, queries: int | None) -> nn.Module:
        """Return what `folded` gives with static shapes.

        Args:
            queries: Number of leading tokens that it is called with, or None for all.
        """
