"""Draw what choices cost and what they answer: one dot each, the chosen ones filled."""

from __future__ import annotations

import dataclasses
import io
import math
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

_SIZE = (1040, 640)
_LEFT, _RIGHT, _TOP, _BOTTOM = 110, 40, 78, 90
_BACKGROUND, _INK, _FAINT, _OURS = (252, 252, 250), (30, 30, 30), (205, 205, 200), (47, 111, 235)
_RADIUS, _TEXT = 9, 22
_STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50)
"""Distances of grid lines in per cent, of which the one with at most eight lines is taken."""

_SLACK = 1e-6
"""Of a step: what rounding does to a value that lies on a grid line."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dot:
    """One choice, such as a merge.

    Attributes:
        label: Such as "6", the block.
        cost: A share of what another one costs, as of the multiply-adds without merging.
        answers: Accuracy or agreement, 0 to 1.
        chosen: Whether it is one that is taken.
        keeps: Whether it keeps the limits.
    """

    label: str
    cost: float
    answers: float
    chosen: bool
    keeps: bool


def cost_and_answers(
    dots: Sequence[Dot],
    *,
    kind: str,
    limit: float | None,
    by: str = "the block after which tokens merge",
    cost: str = "share of the multiply-adds without merging",
) -> bytes:
    """Return a PNG of choices: cost from left to right, answers upwards.

    Args:
        dots: The choices.
        kind: What their answers are, "accuracy" or "same class".
        limit: Where the limit lies, 0 to 1; None draws none.
        by: What the labels are.
        cost: What the cost is.
    """
    image = Image.new("RGB", _SIZE, _BACKGROUND)
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(_TEXT)
    across = _Axis.around([100 * dot.cost for dot in dots], _LEFT, _SIZE[0] - _RIGHT)
    heights = [100 * dot.answers for dot in dots] + ([] if limit is None else [100 * limit])
    up = _Axis.around(heights, _SIZE[1] - _BOTTOM, _TOP)
    for value in across.lines():
        x = across.place(value)
        draw.line([(x, _TOP), (x, _SIZE[1] - _BOTTOM)], fill=_FAINT)
        draw.text((x, _SIZE[1] - _BOTTOM + 8), f"{value:g} %", _INK, font, anchor="ma")
    for value in up.lines():
        y = up.place(value)
        draw.line([(_LEFT, y), (_SIZE[0] - _RIGHT, y)], fill=_FAINT)
        draw.text((_LEFT - 12, y), f"{value:g} %", _INK, font, anchor="rm")
    if limit is not None:
        y = up.place(100 * limit)
        draw.line([(_LEFT, y), (_SIZE[0] - _RIGHT, y)], fill=_OURS, width=2)
        draw.text((_SIZE[0] - _RIGHT, y + 4), "limit", _OURS, font, anchor="ra")
    for dot in dots:
        x, y = across.place(100 * dot.cost), up.place(100 * dot.answers)
        box = (x - _RADIUS, y - _RADIUS, x + _RADIUS, y + _RADIUS)
        colour = _OURS if dot.keeps else _INK
        draw.ellipse(box, fill=_OURS if dot.chosen else _BACKGROUND, outline=colour, width=3)
        draw.text((x, y - _RADIUS - 5), dot.label, colour, font, anchor="ms")
    draw.text((_LEFT, 12), f"{kind} by {by}", _INK, font)
    draw.text((_SIZE[0] - _RIGHT, _SIZE[1] - 14), cost, _INK, font, anchor="rs")
    stream = io.BytesIO()
    image.save(stream, format="PNG", optimize=True)
    return stream.getvalue()


@dataclasses.dataclass(frozen=True)
class _Axis:
    """A scale in per cent along a line of pixels."""

    low: float
    high: float
    step: float
    start: float
    end: float

    @staticmethod
    def around(values: Sequence[float], start: float, end: float) -> _Axis:
        """Return a scale that holds all values, its ends on grid lines."""
        low, high = min(values), max(values)
        step = next((step for step in _STEPS if high - low <= 7 * step + _SLACK), _STEPS[-1])
        last = math.ceil(high / step - _SLACK)
        first = min(math.floor(low / step + _SLACK), last - 1)
        return _Axis(first * step, last * step, step, start, end)

    def place(self, value: float) -> float:
        """Return the pixel of a value."""
        share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def lines(self) -> list[float]:
        """Return the values of the grid lines."""
        count = round((self.high - self.low) / self.step)
        return [round(self.low + index * self.step, 6) for index in range(count + 1)]
