"""The pair of linear layers that every adapter here is made of."""

from __future__ import annotations

import torch
from torch import nn


class Bottleneck(nn.Module):
    """`x -> scale * up(f(down(x)))` without biases; f is ReLU or nothing.

    Args:
        down: (R, in) projection to the bottleneck.
        up: (out, R) projection back.
        scale: Dimensionless factor of the output.
        relu: Whether f is ReLU.
    """

    def __init__(self, down: torch.Tensor, up: torch.Tensor, *, scale: float, relu: bool) -> None:
        super().__init__()
        self.down = nn.Parameter(down, requires_grad=False)
        self.up = nn.Parameter(up, requires_grad=False)
        self.scale = scale
        self.relu = relu

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (…, in) to (…, out)."""
        inner = x @ self.down.T
        if self.relu:
            inner = torch.relu(inner)
        return self.scale * (inner @ self.up.T)
