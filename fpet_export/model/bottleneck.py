"""The pair of linear layers that every adapter which stays in the graph is made of."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn
from torch.nn import functional as F

from engines.errors import FoldError
from fpet_export.model.kept import BranchModule, Reads
from fpet_export.model.vit import activate
from fpet_export.model.vit_spec import Activation


class Bottleneck(BranchModule):
    """`x -> scale * (up(activation(down(x) + down_bias)) + up_bias)`.

    Args:
        down: (R, in) projection to the bottleneck.
        up: (out, R) projection back.
        scale: Dimensionless factor of the output.
        down_bias: (R,), or None for zero.
        up_bias: (out,), or None for zero.
        activation: What stands between the two.
        reads: What it is called with.
    """

    def __init__(
        self,
        down: torch.Tensor,
        up: torch.Tensor,
        *,
        scale: float,
        down_bias: torch.Tensor | None = None,
        up_bias: torch.Tensor | None = None,
        activation: Activation = "relu",
        reads: Reads = "residual",
    ) -> None:
        super().__init__()
        tensors = {"down": down, "up": up, "down_bias": down_bias, "up_bias": up_bias}
        for name, tensor in tensors.items():
            kept = None if tensor is None else nn.Parameter(tensor, requires_grad=False)
            self.register_parameter(name, kept)
        self.scale = scale
        self.activation: Activation = activation
        self.reads: Reads = reads

    title = "bottleneck"

    down: torch.Tensor
    up: torch.Tensor
    down_bias: torch.Tensor | None
    up_bias: torch.Tensor | None

    def shapes(self, width: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of its tensors."""
        rank = len(self.down)
        wide: dict[str, tuple[int, ...]] = {"down": (rank, width), "up": (width, rank)}
        return wide | {"down_bias": (rank,), "up_bias": (width,)}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (…, in) to (…, out)."""
        hidden = activate(F.linear(x, self.down, self.down_bias), self.activation)
        return self.scale * F.linear(hidden, self.up, self.up_bias)

    def folded(self) -> Bottleneck:
        """Return the same map with its scale inside the last projection."""
        bias = self.up_bias
        return Bottleneck(
            self.down,
            _scaled(self.up, self.scale),
            scale=1.0,
            down_bias=self.down_bias,
            up_bias=None if bias is None else _scaled(bias, self.scale),
            activation=self.activation,
            reads=self.reads,
        )

    def macs(self) -> int:
        """Return the multiply-adds of one token."""
        return self.down.numel() + self.up.numel()

    def frozen(self, queries: int | None) -> nn.Sequential:
        """Return two layers, with the activation between them."""
        if self.scale != 1.0:
            raise FoldError(
                f"a branch with scale {self.scale:g} reached the freeze",
                where="freeze",
                fix="fold the model first: load(run).fold().freeze()",
            )
        layers = []
        for weight, bias in ((self.down, self.down_bias), (self.up, self.up_bias)):
            out, width = weight.shape
            layers.append(nn.Linear(width, out, bias=bias is not None, device="meta"))
            layers[-1].weight = cast(nn.Parameter, weight)
            layers[-1].bias = cast(nn.Parameter, bias)
        return nn.Sequential(layers[0], Activate(self.activation), layers[1])


class Activate(nn.Module):
    """What stands between the two layers of a bottleneck."""

    def __init__(self, activation: str) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply it to (…, R)."""
        return activate(x, self.activation)


def _scaled(tensor: torch.Tensor, scale: float) -> torch.Tensor:
    return (tensor.double() * scale).to(tensor.dtype)
