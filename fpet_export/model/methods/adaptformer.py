"""AdaptFormer: a bottleneck with a ReLU beside the MLP. It cannot fold; its scale does.

The branch reads the residual stream (after a merge, the merged one), not the normalised tokens.

Source: Chen et al. 2022, eq. 3, without biases and without the inner LayerNorm, as FPET and
Binary Adapter train it.
"""

from __future__ import annotations

from torch import nn

from fpet_export.model.methods import Bypass, Factors, Layer, PetMethod
from fpet_export.model.methods._bottleneck import Bottleneck
from fpet_export.model.vit import Block, VitSpec

_PATH = "adapter_mlp"
_DOWN, _UP = f"{_PATH}.adapter_down", f"{_PATH}.adapter_up"


class AdaptFormer:
    """A parallel adapter at the MLP of every block."""

    title = "AdaptFormer"

    def layers(self, width: int, dim: int) -> list[Layer]:
        """Return down before up."""
        return [
            Layer(name=_DOWN, shape=(dim, width)),
            Layer(name=_UP, shape=(width, dim)),
        ]

    def bypasses(self) -> list[Bypass]:
        """Return the one branch."""
        return [Bypass(down=_DOWN, up=_UP, onto="branch")]

    def attach(self, block: Block, factors: Factors, *, scale: float) -> None:
        """Add the adapter as a branch beside the MLP."""
        down, up = factors[_DOWN], factors[_UP]
        block.branches.append(Bottleneck(down, up, scale=scale, relu=True))

    def fold(self, block: Block) -> list[str]:
        """Fold the scale into the up-projection; the adapter itself stays."""
        for branch in block.branches:
            assert isinstance(branch, Bottleneck)
            up = (branch.up.double() * branch.scale).to(branch.up.dtype)
            branch.up = nn.Parameter(up, requires_grad=False)
            branch.scale = 1.0
        return [_PATH] if len(block.branches) else []

    def macs(self, spec: VitSpec, dim: int, tokens: int) -> int:
        """Return the two products of the bottleneck."""
        return 2 * tokens * spec.width * dim


METHOD: PetMethod = AdaptFormer()
