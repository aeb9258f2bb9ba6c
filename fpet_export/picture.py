"""Draw which patches merged into which, over the image itself."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from engines.images import PixelArray
from fpet_export.mergers import fpet

_SIDE = 640
"""Longest side of one panel in pixels."""

_GAP, _MARGIN = 24, 20
_BACKGROUND, _INK, _FAINT = (252, 252, 250), (30, 30, 30), (110, 110, 110)
_PALETTE = (
    (230, 97, 1), (94, 60, 153), (0, 133, 119), (202, 0, 32), (5, 113, 176), (166, 97, 26),
    (128, 170, 30), (197, 27, 125), (53, 151, 143), (216, 179, 24),
)  # fmt: skip

Match = NDArray[np.int64]


def offsets(match: Match, grid: tuple[int, int]) -> NDArray[np.int64]:
    """Return (Na, 2): rows and columns from each A patch to the B patch it merged into.

    Args:
        match: (Na,) index in set B, -1 for a dropped token.
        grid: (rows, columns) of patches.
    """
    set_a, set_b = fpet.partition(grid)
    target = set_b[np.maximum(match, 0)]
    return np.stack(
        [target // grid[1] - set_a // grid[1], target % grid[1] - set_a % grid[1]], axis=1
    )


def directions(match: Match, grid: tuple[int, int]) -> dict[str, int]:
    """Count the directions of the merges: the four neighbours, and everything further away."""
    counts = {"up": 0, "down": 0, "left": 0, "right": 0, "further": 0, "dropped": 0}
    names = {(-1, 0): "up", (1, 0): "down", (0, -1): "left", (0, 1): "right"}
    for (rows, columns), index in zip(offsets(match, grid), match, strict=True):
        key = "dropped" if index < 0 else names.get((int(rows), int(columns)), "further")
        counts[key] += 1
    return {name: count for name, count in counts.items() if count or name != "dropped"}


def groups(match: Match, grid: tuple[int, int]) -> NDArray[np.int64]:
    """Return (rows, columns): the raster index of the B patch that each patch ended in.

    A dropped patch is -1.
    """
    set_a, set_b = fpet.partition(grid)
    owner = np.full(grid[0] * grid[1], -1, np.int64)
    owner[set_b] = set_b
    kept = match >= 0
    owner[set_a[kept]] = set_b[match[kept]]
    return owner.reshape(grid)


def merge_picture(pixels: PixelArray, match: Match, grid: tuple[int, int], title: str) -> bytes:
    """Return a PNG with three panels: the image, the merges as arrows, the tokens that remain.

    Args:
        pixels: (height, width, 3) of the model's input.
        match: (Na,) index in set B of each A patch, from the exported graph.
        grid: (rows, columns) of patches.
        title: Printed on top.
    """
    owner = groups(match, grid)
    scale = max(1, round(_SIDE / max(pixels.shape[:2])))
    image = Image.fromarray(pixels).resize(
        (pixels.shape[1] * scale, pixels.shape[0] * scale), Image.Resampling.BICUBIC
    )
    panels = [
        (image, "input"),
        (_arrows(image, match, grid), _arrows_caption(match, grid)),
        (_tokens(image, owner), _tokens_caption(owner)),
    ]
    width = len(panels) * image.width + (len(panels) - 1) * _GAP + 2 * _MARGIN
    canvas = Image.new("RGB", (width, image.height + 2 * _MARGIN + 88), _BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    draw.text((_MARGIN, _MARGIN - 4), title, fill=_INK, font=_font(26))
    for place, (panel, caption) in enumerate(panels):
        left = _MARGIN + place * (image.width + _GAP)
        canvas.paste(panel, (left, _MARGIN + 44))
        draw.text((left, _MARGIN + 54 + image.height), caption, fill=_FAINT, font=_font(20))
    buffer = io.BytesIO()
    canvas.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _arrows(image: Image.Image, match: Match, grid: tuple[int, int]) -> Image.Image:
    """Draw an arrow from every A patch to the B patch it merged into, coloured by its target."""
    panel = Image.blend(image, Image.new("RGB", image.size, (255, 255, 255)), 0.55)
    draw = ImageDraw.Draw(panel)
    set_a, set_b = fpet.partition(grid)
    _draw_grid(draw, panel.size, grid)
    radius = max(2.0, image.width / grid[1] / 9)
    for source, index in zip(set_a, match, strict=True):
        start = _centre(int(source), grid, panel.size)
        if index < 0:
            draw.line([_shift(start, -radius, -radius), _shift(start, radius, radius)], _INK, 2)
            draw.line([_shift(start, -radius, radius), _shift(start, radius, -radius)], _INK, 2)
            continue
        target = int(set_b[index])
        end = _centre(target, grid, panel.size)
        colour = _PALETTE[target % len(_PALETTE)]
        draw.line([start, end], fill=colour, width=max(2, image.width // 200))
        draw.ellipse([*_shift(end, -radius, -radius), *_shift(end, radius, radius)], fill=colour)
    return panel


def _tokens(image: Image.Image, owner: NDArray[np.int64]) -> Image.Image:
    """Paint every token in the mean colour of its patches, with its outline."""
    pixels = np.asarray(image, np.float64)
    high, wide = pixels.shape[0] // owner.shape[0], pixels.shape[1] // owner.shape[1]
    wholes = np.repeat(np.repeat(owner, high, axis=0), wide, axis=1)
    painted = np.full((*wholes.shape, 3), 255.0)
    for index in np.unique(owner):
        inside = wholes == index
        if index >= 0:
            painted[inside] = pixels[: inside.shape[0], : inside.shape[1]][inside].mean(axis=0)
    edge = np.zeros(wholes.shape, bool)
    edge[1:] |= wholes[1:] != wholes[:-1]
    edge[:, 1:] |= wholes[:, 1:] != wholes[:, :-1]
    painted[edge] = 255
    return Image.fromarray(painted.astype(np.uint8)).resize(image.size, Image.Resampling.NEAREST)


def _arrows_caption(match: Match, grid: tuple[int, int]) -> str:
    return "merges: " + ", ".join(
        f"{count} {name}" for name, count in directions(match, grid).items()
    )


def _tokens_caption(owner: NDArray[np.int64]) -> str:
    sizes = np.unique(owner[owner >= 0], return_counts=True)[1]
    return f"{owner.size} patches, {len(sizes)} tokens remain, the largest of {sizes.max()} patches"


def _draw_grid(draw: ImageDraw.ImageDraw, size: Sequence[int], grid: tuple[int, int]) -> None:
    for row in range(1, grid[0]):
        height = row * size[1] / grid[0]
        draw.line([(0, height), (size[0], height)], fill=(225, 225, 225))
    for column in range(1, grid[1]):
        width = column * size[0] / grid[1]
        draw.line([(width, 0), (width, size[1])], fill=(225, 225, 225))


def _centre(patch: int, grid: tuple[int, int], size: Sequence[int]) -> tuple[float, float]:
    row, column = divmod(patch, grid[1])
    return (column + 0.5) * size[0] / grid[1], (row + 0.5) * size[1] / grid[0]


def _shift(point: tuple[float, float], x: float, y: float) -> tuple[float, float]:
    return point[0] + x, point[1] + y


def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)
