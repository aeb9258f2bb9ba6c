"""LoRA on the query and value projections; it folds away.

Source: Hu et al. 2021, eq. 3. The runs read here have no alpha / rank: their `scale` is the
factor itself.
"""

from __future__ import annotations

from typing import Literal

from fpet_export.model.edits import LowRank
from fpet_export.model.methods import Bypass, Factors, Layer, PetMethod

_THIRDS: dict[str, Literal["query", "value"]] = {"q": "query", "v": "value"}


class Lora:
    """LoRA on q and v of every block."""

    title = "LoRA"

    def layers(self, width: int, dim: int) -> list[Layer]:
        """Return q before v, down before up."""
        return [
            Layer(name=f"attn.lora_{part}.adapter_{way}", shape=shape)
            for part in _THIRDS
            for way, shape in (("down", (dim, width)), ("up", (width, dim)))
        ]

    def bypasses(self) -> list[Bypass]:
        """Return one bypass of the query and one of the value third."""
        return [
            Bypass(
                down=f"attn.lora_{part}.adapter_down", up=f"attn.lora_{part}.adapter_up", onto=third
            )
            for part, third in _THIRDS.items()
        ]

    def edits(self, block: int, factors: Factors, *, scale: float) -> list[LowRank]:
        """Return the updates of q and v."""
        return [
            LowRank(
                f"blocks.{block}.attn.{part}",
                down=factors[f"attn.lora_{part}.adapter_down"],
                up=factors[f"attn.lora_{part}.adapter_up"],
                scale=scale,
            )
            for part in _THIRDS
        ]


METHOD: PetMethod = Lora()
