"""Rotary positions: queries and keys of patches are turned by angles that grow with the position.

Two channels of a head at a time are a point of the plane. It is turned by a multiple of the
patch's row or column, so that the product of a query and a key sees how far apart they are. Tokens
in front of the patches have no position and are not turned. Where tokens merge, a merged one keeps
the position of the token that the others join.

Angles, sines and cosines are computed in float32 and in the order of timm's code, as the weights
have seen them.

Source: Su et al. 2021 (RoFormer), eq. 34; Fang et al. 2023 (EVA-02); Heo et al. 2024 (RoPE-ViT);
Siméoni et al. 2025 (DINOv3); timm's `pos_embed_sincos.py`.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import torch

FREQUENCIES = "rope.freqs"
"""timm's name of frequencies that are learned."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rotary:
    """How queries and keys are turned.

    Attributes:
        pairs: Which channels of a head are turned together: "neighbours" 2i and 2i + 1, "halves" i
            and i + D/2.
        coordinates: "counted" numbers rows and columns from `offset`; "centred" puts the middles
            of the patches into -1 to 1, whatever their number, as DINOv3 does.
        temperature: The slowest angle grows about this much slower than the fastest; says nothing
            of learned frequencies.
        reference: (rows, columns) of the grid to which counted coordinates are stretched, so that
            another image size keeps the angles that were trained; None leaves them.
        offset: Of the first row and column.
        columns_first: Whether the first half of the angles is of the columns.
        learned: Whether each head of each block has frequencies of its own, which are weights
            ("mixed" in timm); every angle is then of both row and column.
    """

    pairs: Literal["neighbours", "halves"] = "neighbours"
    coordinates: Literal["counted", "centred"] = "counted"
    temperature: float = 10000.0
    reference: tuple[int, int] | None = None
    offset: float = 0.0
    columns_first: bool = False
    learned: bool = False

    def describe(self) -> str:
        """Return what they are in words: "rotary, temperature 100, over halves of a head"."""
        how = "with learned frequencies" if self.learned else f"temperature {self.temperature:g}"
        return f"rotary, {how}, over {self.pairs} of a head"


@dataclasses.dataclass(frozen=True)
class Turns:
    """By what the tokens of each block are turned.

    Attributes:
        sine: (L, B, H, N, D/2); L is 1 where all blocks, B where all images and H where all heads
            have the same.
        cosine: Likewise.
    """

    sine: torch.Tensor
    cosine: torch.Tensor

    def of(self, block: int) -> torch.Tensor:
        """Return (2, B, H, N, D/2) sines and cosines of a 0-based block."""
        index = block if len(self.sine) > 1 else 0
        return torch.stack([self.sine[index], self.cosine[index]])

    def taken(self, places: torch.Tensor) -> Turns:
        """Return those of other tokens: (B, N') which of the tokens' positions each one takes."""
        return Turns(*(_rows(table, places) for table in (self.sine, self.cosine)))


def turns(
    rotary: Rotary,
    grid: tuple[int, int],
    *,
    prefix: int,
    head_width: int,
    frequencies: torch.Tensor | None = None,
) -> Turns:
    """Return by what tokens are turned before any merge.

    Args:
        rotary: How.
        grid: (rows, columns) of patches.
        prefix: Tokens in front of them, which stay as they are.
        head_width: D.
        frequencies: (2, L, H, D/2), where they are learned.
    """
    if rotary.learned:
        assert frequencies is not None
        first, second = _coordinates(rotary, grid).T
        weights = frequencies.float()
        angles = (
            first[:, None] * weights[0][..., None, :] + second[:, None] * weights[1][..., None, :]
        )
        angles = angles[:, None]
    else:
        angles = _angles(rotary, grid, head_width // 4)[None, None, None]
    before = angles.new_zeros(*angles.shape[:3], prefix, angles.shape[-1])
    angles = torch.cat([before, angles], dim=3)
    return Turns(angles.sin(), angles.cos())


def turned(x: torch.Tensor, turn: torch.Tensor, pairs: str) -> torch.Tensor:
    """Turn queries or keys.

    Args:
        x: (B, H, N, D).
        turn: (2, B, H, N, D/2) sines and cosines; B and H may be 1.
        pairs: See `Rotary`.
    """
    sine, cosine = turn.to(x.dtype)
    if pairs == "halves":
        first, second = x.chunk(2, dim=-1)
        return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)
    first, second = x[..., ::2], x[..., 1::2]
    both = torch.stack([first * cosine - second * sine, second * cosine + first * sine], dim=-1)
    return both.flatten(-2)


def by_halves(pairs: str, head_width: int) -> torch.Tensor:
    """Return (D,) the channels of a head in an order in which halves are turned together.

    Queries and keys may both be reordered: their product is a sum over the channels.
    """
    channels = torch.arange(head_width)
    return channels if pairs == "halves" else torch.cat([channels[::2], channels[1::2]])


def _coordinates(rotary: Rotary, grid: tuple[int, int]) -> torch.Tensor:
    """Return (P, 2) the two coordinates of each patch, row by row, in the order of the angles."""
    axes = []
    for axis, size in enumerate(grid):
        if rotary.coordinates == "centred":
            places = (torch.arange(0.5, size) + rotary.offset) / size
        else:
            places = torch.arange(size).float() + rotary.offset
        if rotary.reference is not None:
            places = places / size * rotary.reference[axis]
        axes.append(places)
    rows, columns = torch.meshgrid(*axes, indexing="ij")
    both = torch.stack([columns, rows] if rotary.columns_first else [rows, columns], dim=-1)
    flat = both.flatten(0, 1)
    return 2.0 * flat - 1.0 if rotary.coordinates == "centred" else flat


def _angles(rotary: Rotary, grid: tuple[int, int], count: int) -> torch.Tensor:
    """Return (P, 2 * count) angles: those of one coordinate, then those of the other."""
    places = _coordinates(rotary, grid)[:, :, None]
    steps = torch.arange(count, dtype=torch.float32)
    if rotary.coordinates == "centred":
        periods = rotary.temperature ** (2.0 * steps / (2 * count))
        return (2 * math.pi * places / periods).flatten(1)
    return (places * (1.0 / rotary.temperature ** (steps / count))).flatten(1)


def _rows(table: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Return the rows (B, N') of (L, B, H, N, D/2), where B may be 1 before."""
    levels, _, heads, _, width = table.shape
    index = places[None, :, None, :, None].expand(levels, -1, heads, -1, width)
    return table.expand(-1, len(places), -1, -1, -1).gather(3, index)
