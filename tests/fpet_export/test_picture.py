"""The picture of a merge: directions, groups and panels, on a grid that fits on paper.

On a 4 x 4 grid set A is 0 2 8 10 5 7 13 15 and set B is 4 6 12 14 1 3 9 11.
"""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from fpet_export import picture

GRID = (4, 4)
UP, DOWN, LEFT, RIGHT = (-1, 0), (1, 0), (0, -1), (0, 1)

# 0->4 down, 2->1 left, 8->4 up, 10->11 right, 5->9 down, 7->6 left, 13->3 far, 15->11 up
MATCH = np.array([0, 4, 0, 7, 6, 1, 5, 7])
DROPPED = np.array([0, 4, -1, 7, 6, 1, -1, 7])


def test_offsets_are_rows_and_columns_from_a_to_b() -> None:
    assert [tuple(offset) for offset in picture.offsets(MATCH, GRID)] == [
        DOWN, LEFT, UP, RIGHT, DOWN, LEFT, (-3, 2), UP,
    ]  # fmt: skip


def test_directions_are_counted() -> None:
    assert picture.directions(MATCH, GRID) == {
        "up": 2, "down": 2, "left": 2, "right": 1, "further": 1,
    }  # fmt: skip


def test_dropped_tokens_are_counted_apart() -> None:
    assert picture.directions(DROPPED, GRID) == {
        "up": 1, "down": 2, "left": 2, "right": 1, "further": 0, "dropped": 2,
    }  # fmt: skip


def test_groups_name_the_patch_that_each_patch_ended_in() -> None:
    assert picture.groups(MATCH, GRID).tolist() == [
        [4, 1, 1, 3],
        [4, 9, 6, 6],
        [4, 9, 11, 11],
        [12, 3, 14, 11],
    ]


def test_a_dropped_patch_belongs_to_no_group() -> None:
    groups = picture.groups(DROPPED, GRID)

    assert groups[2, 0] == groups[3, 1] == -1
    assert (groups >= 0).sum() == 14


def test_groups_of_a_grid_that_is_not_square() -> None:
    # a 2 x 3 grid: A is 0 2 4, B is 3 5 1
    assert picture.groups(np.array([0, 2, 2]), (2, 3)).tolist() == [[3, 1, 1], [3, 1, 5]]


def panels(png: bytes) -> list[np.ndarray]:
    """Cut the three panels out of the canvas."""
    canvas = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
    side, gap, margin, top = 640, 24, 20, 64
    assert canvas.shape == (side + 2 * margin + 88, 3 * side + 2 * gap + 2 * margin, 3)
    lefts = [margin + place * (side + gap) for place in range(3)]
    return [canvas[top : top + side, left : left + side] for left in lefts]


@pytest.fixture
def pixels() -> np.ndarray:
    """16 x 16 pixels; each 4 x 4 patch has a grey of its own, ten times its index."""
    patches = 10 * np.arange(16, dtype=np.uint8).reshape(GRID)
    return np.repeat(patches.repeat(4, axis=0).repeat(4, axis=1)[..., None], 3, axis=2)


def centre(panel: np.ndarray, patch: int) -> list[int]:
    row, column = divmod(patch, 4)
    value: list[int] = panel[160 * row + 80, 160 * column + 80].tolist()
    return value


def test_a_png_has_the_image_the_arrows_and_the_tokens(pixels: np.ndarray) -> None:
    image, arrows, tokens = panels(picture.merge_picture(pixels, MATCH, GRID, "title"))

    for patch in range(16):
        assert centre(image, patch) == pytest.approx([10 * patch] * 3, abs=2)
    # a patch that merged is painted as what it merged with: 0, 4 and 8 are one token
    assert centre(tokens, 0) == centre(tokens, 4) == centre(tokens, 8)
    assert centre(tokens, 0) == pytest.approx([40] * 3, abs=3)
    assert centre(tokens, 12) == pytest.approx([120] * 3, abs=3)
    assert (arrows != image).any()
    assert {tuple(colour) for colour in arrows.reshape(-1, 3)} >= {
        tuple(picture._PALETTE[b % 10]) for b in (4, 1, 11, 9, 6, 3)
    }


def test_dropped_patches_are_crossed_out_and_left_white(pixels: np.ndarray) -> None:
    _, arrows, tokens = panels(picture.merge_picture(pixels, DROPPED, GRID, "title"))

    assert centre(arrows, 8) == centre(arrows, 13) == list(picture._INK)
    assert centre(tokens, 8) == centre(tokens, 13) == [255] * 3


def test_an_image_that_is_not_square_keeps_its_shape() -> None:
    pixels = np.zeros((32, 64, 3), np.uint8)

    png = picture.merge_picture(pixels, np.zeros(16, int), (4, 8), "title")

    width, height = Image.open(io.BytesIO(png)).size
    assert (width, height) == (3 * 640 + 2 * 24 + 40, 320 + 40 + 88)


def test_a_title_may_hold_any_letters(pixels: np.ndarray) -> None:
    assert picture.merge_picture(pixels, MATCH, GRID, "Füchse · 狐 \U0001f98a")
