"""LoRA on the query and value projections; it folds away.

Source: Hu et al. 2021, eq. 3. The runs read here have no alpha / rank: their `scale` is the
factor itself.
"""

from __future__ import annotations

import torch
from torch import nn

from fpet_export.methods import Factors, Layer, PetMethod
from fpet_export.methods._bottleneck import Bottleneck
from fpet_export.vit import Block, VitSpec


class QueryValueUpdate(nn.Module):
    """Adds low-rank updates to the query and value thirds of a fused qkv projection."""

    def __init__(self, query: Bottleneck, value: Bottleneck) -> None:
        super().__init__()
        self.query, self.value = query, value

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, N, C) to (B, N, 3C); the key third is zero."""
        query = self.query(x)
        return torch.cat([query, torch.zeros_like(query), self.value(x)], dim=-1)


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
            for part in "qv"
            for way, shape in (("down", (dim, width)), ("up", (width, dim)))
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
            for part in "qv"
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
