"""LoRA on the query and value projections; it folds away.

Source: Hu et al. 2021, eq. 3. The runs read here have no alpha / rank: their `scale` is the
factor itself.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from fpet_export.model.methods import Bypass, Factors, Layer, PetMethod
from fpet_export.model.methods._bottleneck import Bottleneck
from fpet_export.model.vit import Block, VitSpec

_THIRDS: dict[str, Literal["query", "value"]] = {"q": "query", "v": "value"}


class QueryValueUpdate(nn.Module):
    """Adds low-rank updates to the query and value thirds of a fused qkv projection."""

    def __init__(self, query: Bottleneck, value: Bottleneck) -> None:
        super().__init__()
        self.query, self.value = query, value

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, N, C) to (B, N, 3C); the key third is zero."""
        query = self.query(x)
        return torch.cat([query, torch.zeros_like(query), self.value(x)], dim=-1)

    def as_product(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (C, 2R) and (2R, 3C) float64 matrices whose product is the whole update.

        The second is zero where the bottleneck of one third meets the columns of another.
        """
        query, value = self.query, self.value
        down = torch.cat([query.down, value.down]).T.double()
        rank, width = query.down.shape
        up = torch.zeros(2 * rank, 3 * width, dtype=torch.float64)
        up[:rank, :width] = query.scale * query.up.T.double()
        up[rank:, 2 * width :] = value.scale * value.up.T.double()
        return down, up


def fold_linear(
    weight: torch.Tensor, down: torch.Tensor, up: torch.Tensor, *, scale: float
) -> torch.Tensor:
    """Return the weight of `x -> W x + scale * up(down(x))`.

    Args:
        weight: (out, in) frozen base weight.
        down: (rank, in) projection to the bottleneck.
        up: (out, rank) projection back.
        scale: Dimensionless.

    Returns:
        (out, in), in the dtype of `weight`; the product is taken in float64.

    Source: Hu et al. 2021, eq. 3.
    """
    update = up.double() @ down.double()
    return (weight.double() + scale * update).to(weight.dtype)


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

    def attach(self, block: Block, factors: Factors, *, scale: float) -> None:
        """Add the update of q and v to the block's attention."""
        query, value = (
            Bottleneck(
                factors[f"attn.lora_{part}.adapter_down"],
                factors[f"attn.lora_{part}.adapter_up"],
                scale=scale,
                relu=False,
            )
            for part in _THIRDS
        )
        block.attn.updates.append(QueryValueUpdate(query, value))

    def fold(self, block: Block) -> list[str]:
        """Fold into rows 0:C and 2C:3C of the qkv weight."""
        width = block.attn.proj.in_features
        weight = block.attn.qkv.weight
        for update in block.attn.updates:
            assert isinstance(update, QueryValueUpdate)
            pieces = []
            for rows, pair in enumerate((update.query, None, update.value)):
                base = weight[rows * width : (rows + 1) * width]
                if pair is not None:
                    base = fold_linear(base, pair.down, pair.up, scale=pair.scale)
                pieces.append(base)
            weight = torch.cat(pieces)
        block.attn.qkv.weight = nn.Parameter(weight, requires_grad=False)
        block.attn.updates = nn.ModuleList()
        return []

    def macs(self, spec: VitSpec, dim: int, tokens: int) -> int:
        """Return 0: nothing is left after folding."""
        return 0


METHOD: PetMethod = Lora()
