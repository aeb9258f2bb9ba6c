"""Draw which patches merged, over the image itself: every merged group has one colour."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from engines.imaging.images import PixelArray
from fpet_export.pictures.merge_groups import MergeGroups, Owner

_SIDE = 560
"""Longest side of a panel in pixels, about, unless its patches would be too small to be read."""

_SMALLEST_PATCH = 24
_GAP, _MARGIN, _LINE = 24, 20, 30
_TITLE, _TEXT = 25, 21
_ACROSS = 4
"""Most panels in a row."""

_INK = (122, 122, 122)
"""Of the text: the background is transparent, and this grey reads on white and on black."""

COLOURS = (
    (230, 25, 75), (0, 160, 70), (0, 110, 230), (255, 215, 0), (245, 120, 30), (150, 40, 190),
    (0, 200, 220), (240, 50, 230), (170, 220, 20), (120, 80, 30), (0, 120, 120), (255, 150, 180),
)  # fmt: skip
"""Of the outlines. So many groups, the largest, have a colour of their own and a number."""

_CROSS = (30, 30, 30)

Colour = tuple[int, int, int]
Boxes = dict[tuple[int, int], tuple[slice, slice]]
"""The rows and the columns of pixels of a patch, by its row and column in the grid."""


def explain(groups: MergeGroups) -> str:
    """Return the sentences that tell a reader what the merged panel shows."""
    text = "Every outlined group became one token and is painted in its mean colour. "
    if len(groups.merged) > len(COLOURS):
        text += f"The {len(COLOURS)} largest groups have a number: patches"
    else:
        text += "Patches"
    text += " with the same number and colour belong together, wherever they lie."
    if groups.alone:
        text += " A patch without an outline stayed alone."
    if groups.dropped:
        text += " A crossed-out patch is in no token."
    return text


def merged_panel(pixels: PixelArray, groups: MergeGroups) -> Image.Image:
    """Return the image with every merged group in its mean colour and outlined.

    Args:
        pixels: (height, width, 3) of the model's input.
        groups: What merged.
    """
    image = _enlarged(pixels, groups)
    painted = np.asarray(image).copy()
    boxes = _boxes(image.size, groups.owner.shape)
    for group in groups.merged:
        members = [
            boxes[int(row), int(column)] for row, column in np.argwhere(groups.owner == group)
        ]
        inside = np.concatenate([painted[box].reshape(-1, 3) for box in members])
        for box in members:
            painted[box] = np.rint(inside.mean(axis=0))
    panel = Image.fromarray(painted)
    _outline(panel, groups, boxes)
    return panel


def colours_of(groups: MergeGroups) -> dict[int, Colour]:
    """Return the colour of every merged group, by its owner.

    The largest groups have a colour each. A further one takes the colour that is used least, of
    those that no group beside it has.
    """
    beside = _neighbours(groups.owner)
    found: dict[int, int] = {}
    used = [0] * len(COLOURS)
    for group in groups.merged:
        taken = {found[other] for other in beside[group] if other in found}
        free = [index for index in range(len(COLOURS)) if index not in taken]
        index = min(free or range(len(COLOURS)), key=used.__getitem__)
        if len(found) < len(COLOURS):
            index = len(found)
        found[group] = index
        used[index] += 1
    return {group: COLOURS[index] for group, index in found.items()}


def merge_picture(pixels: PixelArray, groups: Mapping[int, MergeGroups], title: str) -> bytes:
    """Return a PNG with the image, its groups after each block, and a legend, on no background.

    Args:
        pixels: (height, width, 3) of the model's input.
        groups: What had merged after each block that merges.
        title: Printed on top.
    """
    last = list(groups.values())[-1]
    panels = [("the image", _enlarged(pixels, last))]
    panels += [(f"after block {block}", merged_panel(pixels, one)) for block, one in groups.items()]
    wide, high = panels[0][1].size
    across = min(len(panels), _ACROSS)
    width = across * (wide + _GAP) - _GAP + 2 * _MARGIN
    legend = _wrapped(f"{last.describe()}. {explain(last)}", width - 2 * _MARGIN)
    named = _LINE if len(groups) > 1 else 0
    top, row = _MARGIN + _LINE + _LINE // 2, high + named + _LINE // 2
    end = top + row * -(-len(panels) // across)
    canvas = Image.new("RGBA", (width, end + _LINE * len(legend) + _MARGIN), (0, 0, 0, 0))
    draw = ImageDraw.Draw(canvas)
    draw.text((_MARGIN, _MARGIN), title, fill=_INK, font=_font(_TITLE))
    for index, (name, panel) in enumerate(panels):
        at = (_MARGIN + index % across * (wide + _GAP), top + index // across * row)
        canvas.paste(panel, at)
        if named:
            draw.text((at[0], at[1] + high), name, fill=_INK, font=_font(_TEXT))
    for line, text in enumerate(legend):
        draw.text((_MARGIN, end + line * _LINE), text, fill=_INK, font=_font(_TEXT))
    return png_of(canvas)


def png_of(image: Image.Image) -> bytes:
    """Return an image as the bytes of a PNG."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _enlarged(pixels: PixelArray, groups: MergeGroups) -> Image.Image:
    """Return the image, a whole number of times as large."""
    rows, columns = groups.owner.shape
    high, wide = pixels.shape[:2]
    smallest = min(high / rows, wide / columns)
    scale = max(1, round(_SIDE / max(high, wide)), -int(-_SMALLEST_PATCH // smallest))
    return Image.fromarray(pixels).resize((wide * scale, high * scale), Image.Resampling.BICUBIC)


def _boxes(size: tuple[int, int], grid: tuple[int, ...]) -> Boxes:
    down = np.linspace(0, size[1], grid[0] + 1).round().astype(int).tolist()
    across = np.linspace(0, size[0], grid[1] + 1).round().astype(int).tolist()
    return {
        (row, column): (slice(*down[row : row + 2]), slice(*across[column : column + 2]))
        for row in range(grid[0])
        for column in range(grid[1])
    }


def _outline(panel: Image.Image, groups: MergeGroups, boxes: Boxes) -> None:
    """Draw the borders of the groups inside their patches, their numbers, and dropped patches."""
    draw = ImageDraw.Draw(panel)
    colours = colours_of(groups)
    numbers = {group: at for at, group in enumerate(groups.merged[: len(COLOURS)], start=1)}
    smallest = min(side.stop - side.start for sides in boxes.values() for side in sides)
    thick, thin = max(2, round(smallest / 9)), max(1, round(smallest / 32))
    for (row, column), (down, across) in boxes.items():
        group = int(groups.owner[row, column])
        corners = across.start, down.start, across.stop - 1, down.stop - 1
        if group < 0:
            left, top, right, bottom = corners
            draw.line([(left, top), (right, bottom)], _CROSS, thick)
            draw.line([(left, bottom), (right, top)], _CROSS, thick)
        if group not in colours:
            continue
        width = thick if group in numbers else thin
        for box in _sides(corners, _borders(groups.owner, row, column), width):
            draw.rectangle(box, fill=colours[group])
        if group in numbers:
            middle = ((across.start + across.stop) / 2, (down.start + down.stop) / 2)
            draw.text(
                middle, str(numbers[group]), fill="white", font=_font(round(smallest * 0.42)),
                anchor="mm", stroke_width=max(1, thick // 2), stroke_fill="black",
            )  # fmt: skip


def _borders(owner: Owner, row: int, column: int) -> tuple[bool, bool, bool, bool]:
    """Return whether another group, or nothing, lies above, below, left and right of a patch."""
    padded = np.pad(owner, 1, constant_values=-2)
    around = ((row, column + 1), (row + 2, column + 1), (row + 1, column), (row + 1, column + 2))
    above, below, left, right = (bool(padded[at] != owner[row, column]) for at in around)
    return above, below, left, right


def _sides(
    corners: tuple[int, int, int, int], borders: tuple[bool, bool, bool, bool], width: int
) -> list[tuple[int, int, int, int]]:
    """Return the rectangles that lie along the borders, inside the corners."""
    left, top, right, bottom = corners
    edge = width - 1
    sides = (
        (left, top, right, top + edge),
        (left, bottom - edge, right, bottom),
        (left, top, left + edge, bottom),
        (right - edge, top, right, bottom),
    )
    return [side for side, is_border in zip(sides, borders, strict=True) if is_border]


def _neighbours(owner: Owner) -> dict[int, set[int]]:
    """Return the groups that touch each group, also at a corner."""
    rows, columns = owner.shape
    found: dict[int, set[int]] = {int(group): set() for group in np.unique(owner)}
    for down, across in ((0, 1), (1, 0), (1, 1), (1, -1)):
        ours = owner[: rows - down, max(0, -across) : columns - max(0, across)]
        theirs = owner[down:, max(0, across) : columns + min(0, across)]
        for one, other in zip(ours.ravel().tolist(), theirs.ravel().tolist(), strict=True):
            if one != other:
                found[one].add(other)
                found[other].add(one)
    return found


def _wrapped(text: str, width: int) -> list[str]:
    """Return the text in lines of at most `width` pixels."""
    font = _font(_TEXT)
    letters = len(text)
    while letters > 20:
        lines = textwrap.wrap(text, letters)
        if all(font.getlength(line) <= width for line in lines):
            return lines
        letters -= 1
    return textwrap.wrap(text, letters)


def _font(size: int) -> Any:
    return ImageFont.load_default(size)
