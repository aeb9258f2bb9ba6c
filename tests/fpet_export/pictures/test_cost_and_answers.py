"""The picture of a search for a merge: every dot lies where its numbers say."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from fpet_export.pictures import cost_and_answers as drawn
from fpet_export.pictures.cost_and_answers import Dot


def dot(label: str, cost: float, answers: float, **more: bool) -> Dot:
    return Dot(label=label, cost=cost, answers=answers, **{"chosen": False, "keeps": True, **more})


DOTS = [
    dot("0", 0.5, 0.90, keeps=False),
    dot("4", 0.7, 0.96, chosen=True),
    dot("none", 1.0, 0.97),
]


def pixels(dots: list[Dot], limit: float | None = None) -> np.ndarray:
    png = drawn.cost_and_answers(dots, kind="accuracy", limit=limit)
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def test_only_the_chosen_dot_is_filled() -> None:
    found = pixels(DOTS)

    across = drawn._Axis.around([50, 70, 100], drawn._LEFT, drawn._SIZE[0] - drawn._RIGHT)
    up = drawn._Axis.around([90, 96, 97], drawn._SIZE[1] - drawn._BOTTOM, drawn._TOP)
    for one in DOTS:
        x, y = round(across.place(100 * one.cost)), round(up.place(100 * one.answers))
        filled = tuple(found[y + 3, x + 3]) == drawn._OURS
        assert filled == one.chosen


def test_a_limit_is_a_line() -> None:
    without, with_line = pixels(DOTS), pixels(DOTS, limit=0.95)

    blue = (with_line == drawn._OURS).all(axis=2) & ~(without == drawn._OURS).all(axis=2)
    assert blue.sum(axis=1).max() > 800


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [
        ([90, 96, 97], 90, 97),
        ([100.0, 100.0], 99.9, 100),
        ([0, 100], 0, 100),
        ([99.2, 99.9], 99.2, 99.9),
    ],
)
def test_the_scale_holds_all_values_and_ends_on_grid_lines(
    values: list[float], low: float, high: float
) -> None:
    axis = drawn._Axis.around(values, 0, 700)

    assert axis.low - 1e-9 <= min(values) <= max(values) <= axis.high + 1e-9
    assert (axis.lines()[0], axis.lines()[-1]) == pytest.approx((low, high))
    assert len(axis.lines()) <= 9
