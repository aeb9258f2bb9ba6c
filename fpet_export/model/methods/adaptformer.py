"""AdaptFormer: a bottleneck with a ReLU beside the MLP. It cannot fold; its scale does.

The branch reads the residual stream (after a merge, the merged one), not the normalised tokens.

Source: Chen et al. 2022, eq. 3, without biases and without the inner LayerNorm, as FPET and
Binary Adapter train it.
"""

from __future__ import annotations

from fpet_export.model.bottleneck import Bottleneck
from fpet_export.model.edits import Branch
from fpet_export.model.methods import Bypass, Factors, Layer, PetMethod

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

    def edits(self, block: int, factors: Factors, *, scale: float) -> list[Branch]:
        """Return the branch beside the MLP."""
        module = Bottleneck(factors[_DOWN], factors[_UP], scale=scale)
        return [Branch(block=block, name=_PATH, module=module)]


METHOD: PetMethod = AdaptFormer()
