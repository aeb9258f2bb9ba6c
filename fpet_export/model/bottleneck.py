"""The pair of linear layers that every adapter which stays in the graph is made of."""

from __future__ import annotations

import torch
from torch import nn


class Bottleneck(nn.Module):
    """`x -> scale * up(relu(down(x)))` without biases.

    Args:
        down: (R, in) projection to the bottleneck.
        up: (out, R) projection back.
        scale: Dimensionless factor of the output.
    """

    def __init__(self, down: torch.Tensor, up: torch.Tensor, *, scale: float) -> None:
        super().__init__()
        self.down = nn.Parameter(down, requires_grad=False)
        self.up = nn.Parameter(up, requires_grad=False)
        self.scale = scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (…, in) to (…, out)."""
        return self.scale * (torch.relu(x @ self.down.T) @ self.up.T)

    def folded(self) -> Bottleneck:
        """Return the same map with its scale inside the last projection."""
        up = (self.up.double() * self.scale).to(self.up.dtype)
        return Bottleneck(self.down, up, scale=1.0)

    def macs(self) -> int:
        """Return the multiply-adds of one token."""
        return self.down.numel() + self.up.numel()
