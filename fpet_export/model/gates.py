"""Decisions for each token: whether an update acts on it, whether the MLP computes it.

A gate is a comparison that is exactly zero or one. In a graph with static shapes it saves no time:
what it multiplies is computed for every token.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import torch
from torch import nn


class Decision(nn.Module):
    """A module whose output (…, 1) is zero or one, in the type of what it reads.

    Forward hooks on every module of this class count what is skipped.
    """


@dataclasses.dataclass(frozen=True, kw_only=True)
class NormRule:
    """When an update is large enough to act.

    Attributes:
        threshold: tau; 0 and below lets every update act, infinity none.
        norm: "relative" compares |update| / |output of the layer|, "absolute" |update| alone.
        bias: Whether the bias of the layer is a part of its output in that.
        epsilon: Added to the length that is divided by.

    Source: TS-PEFT, arXiv 2511.16147, whose code is not public.
    """

    threshold: float
    norm: Literal["relative", "absolute"] = "relative"
    bias: Literal["with", "without"] = "with"
    epsilon: float = 0.0

    @property
    def is_open(self) -> bool:
        """Whether every update acts."""
        return self.threshold <= 0

    @property
    def is_shut(self) -> bool:
        """Whether no update acts."""
        return self.threshold == math.inf


class LargeEnough(Decision):
    """The rule as it is published: a division of two lengths, compared with the threshold."""

    def __init__(self, rule: NormRule) -> None:
        super().__init__()
        self.rule = rule

    def forward(self, update: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """Decide for an update and the output (…, out) of the layer."""
        length = torch.linalg.vector_norm(update, dim=-1, keepdim=True)
        if self.rule.norm == "relative":
            whole = torch.linalg.vector_norm(output, dim=-1, keepdim=True)
            length = length / (whole + self.rule.epsilon)
        decided: torch.Tensor = length >= self.rule.threshold
        return decided.to(update.dtype)


class FrozenLargeEnough(Decision):
    """The same without division and square root, in float32.

    `|d| >= tau (|y| + epsilon)`: with an epsilon of zero both sides are squared. A square overflows
    half precision above 256, so that this stays float32 in every graph.
    """

    def __init__(self, rule: NormRule) -> None:
        super().__init__()
        self.rule = rule

    def forward(self, update: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """Decide for an update and the output (…, out) of the layer."""
        rule = self.rule
        square = update.float().square().sum(dim=-1, keepdim=True)
        if rule.norm == "absolute":
            decided = square >= rule.threshold**2
        else:
            whole = output.float().square().sum(dim=-1, keepdim=True)
            if rule.epsilon:
                decided = square.sqrt() >= rule.threshold * (whole.sqrt() + rule.epsilon)
            else:
                decided = square >= rule.threshold**2 * whole
        return decided.to(update.dtype)
