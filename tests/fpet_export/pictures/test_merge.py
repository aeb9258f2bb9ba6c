"""The picture of a merge: outlines, mean colours and numbers, on a grid that fits on paper."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from fpet_export.model.mergers import fpet
from fpet_export.pictures import merge
from tests.fpet_export.pictures.fpet_groups import fpet_groups
from tests.fpet_export.pictures.test_merge_groups import DROPPED, GRID, MATCH

SIDE, PATCH = 560, 140  # of a panel and of a patch of the images below
THICK = 16  # PATCH / 9


@pytest.fixture
def pixels() -> np.ndarray:
    """16 x 16 pixels; each 4 x 4 patch has a grey of its own, ten times its index."""
    patches = 10 * np.arange(16, dtype=np.uint8).reshape(GRID)
    return np.repeat(patches.repeat(4, axis=0).repeat(4, axis=1)[..., None], 3, axis=2)


def panel_of(pixels: np.ndarray, match: np.ndarray, grid: tuple[int, int] = GRID) -> np.ndarray:
    return np.asarray(merge.merged_panel(pixels, fpet_groups(match, grid)))


def inside(panel: np.ndarray, patch: int) -> list[int]:
    """Return a pixel of a patch between its outline and its number."""
    row, column = divmod(patch, 4)
    value: list[int] = panel[PATCH * row + PATCH // 5, PATCH * column + PATCH // 5].tolist()
    return value


def edges(panel: np.ndarray, patch: int) -> list[tuple[int, ...]]:
    """Return the pixels amid the upper, lower, left and right edge of a patch."""
    row, column = divmod(patch, 4)
    top, left = PATCH * row, PATCH * column
    middle, last = PATCH // 2, PATCH - 1
    places = (
        (top, left + middle), (top + last, left + middle),
        (top + middle, left), (top + middle, left + last),
    )  # fmt: skip
    return [tuple(panel[place].tolist()) for place in places]


def test_a_group_is_painted_in_its_mean_colour(pixels: np.ndarray) -> None:
    panel = panel_of(pixels, MATCH)

    # 0, 4 and 8 are one token, 13 and 3 are one although they lie far apart
    assert inside(panel, 0) == inside(panel, 4) == inside(panel, 8)
    assert inside(panel, 0) == pytest.approx([40] * 3, abs=3)
    assert inside(panel, 13) == inside(panel, 3) == pytest.approx([80] * 3, abs=3)


def test_outlines_lie_where_a_group_ends_and_nowhere_inside_it(pixels: np.ndarray) -> None:
    panel = panel_of(pixels, MATCH)
    one, other = merge.COLOURS[0], merge.COLOURS[1]  # of the groups of 4 and of 11
    fill = tuple(inside(panel, 4))

    assert edges(panel, 0) == [one, fill, one, one]  # 4 lies below
    assert edges(panel, 4) == [fill, fill, one, one]
    assert edges(panel, 8) == [fill, one, one, one]
    fill = tuple(inside(panel, 11))
    assert edges(panel, 10) == [other, other, other, fill]  # 11 lies to the right
    assert edges(panel, 15) == [fill, other, other, other]
    # two groups meet: each has its own line inside its own patches
    assert edges(panel, 4)[3] == one
    assert edges(panel, 5)[2] == merge.COLOURS[5]


def test_an_outline_is_as_wide_as_a_ninth_of_a_patch(pixels: np.ndarray) -> None:
    panel = panel_of(pixels, MATCH)
    row = panel[PATCH + PATCH // 5, :PATCH]  # of patch 4, from its left edge

    is_line = (row == np.array(merge.COLOURS[0])).all(axis=1)
    assert is_line[:THICK].all() and is_line[-THICK:].all()
    assert not is_line[THICK:-THICK].any()


def test_patches_alone_keep_their_pixels(pixels: np.ndarray) -> None:
    panel = panel_of(pixels, MATCH)
    plain = np.asarray(Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BICUBIC))

    for patch in (12, 14):
        row, column = divmod(patch, 4)
        box = np.s_[PATCH * row : PATCH * (row + 1), PATCH * column : PATCH * (column + 1)]
        assert (panel[box] == plain[box]).all()
        assert not set(edges(panel, patch)) & set(merge.COLOURS)


def test_members_far_apart_carry_one_number_and_one_colour(pixels: np.ndarray) -> None:
    panel = panel_of(pixels, MATCH)

    def number(patch: int) -> np.ndarray:
        row, column = divmod(patch, 4)
        top, left = PATCH * row + PATCH // 4, PATCH * column + PATCH // 4
        return panel[top : top + PATCH // 2, left : left + PATCH // 2]

    assert (number(13) == number(3)).all()
    assert (number(13) == 255).all(axis=2).any()  # white digits
    assert not (number(13) == number(2)).all()
    assert set(edges(panel, 13)) == set(edges(panel, 3)) == {merge.COLOURS[3]}


def test_dropped_patches_are_crossed_out(pixels: np.ndarray) -> None:
    panel = panel_of(pixels, DROPPED)

    for patch in (8, 13):
        row, column = divmod(patch, 4)
        assert panel[PATCH * row + 70, PATCH * column + 70].tolist() == list(merge._CROSS)
    assert "crossed-out" in merge.explain(fpet_groups(DROPPED, GRID))
    assert "crossed-out" not in merge.explain(fpet_groups(MATCH, GRID))


@pytest.mark.parametrize("seed", range(5))
def test_the_largest_groups_have_a_colour_each_and_neighbours_differ(seed: int) -> None:
    grid = (14, 14)
    match = np.random.default_rng(seed).integers(0, len(fpet.partition(grid)[1]), 98)
    groups = fpet_groups(match, grid)
    colours = merge.colours_of(groups)

    assert set(colours) == set(groups.merged)
    assert len(groups.merged) > len(merge.COLOURS)
    largest = [colours[group] for group in groups.merged[: len(merge.COLOURS)]]
    assert largest == list(merge.COLOURS)
    small = set(groups.merged[len(merge.COLOURS) :])
    for one, other in zip(groups.owner[:, 1:].ravel(), groups.owner[:, :-1].ravel(), strict=True):
        if one != other and {int(one), int(other)} <= small:
            assert colours[int(one)] != colours[int(other)]


def test_only_the_largest_groups_of_many_are_numbered() -> None:
    grid, pixels = (8, 8), np.full((64, 64, 3), 60, np.uint8)
    groups = fpet_groups(np.arange(32), grid)  # 32 pairs
    panel = np.asarray(merge.merged_panel(pixels, groups))
    side = panel.shape[0] // 8

    def has_number(patch: int) -> bool:
        row, column = patch // 8, patch % 8
        box = panel[side * row : side * (row + 1), side * column : side * (column + 1)]
        return bool((box == 255).all(axis=2).any())

    numbered = {int(o) for o in groups.owner.ravel() if has_number(int(o))}
    assert numbered == set(groups.merged[: len(merge.COLOURS)])
    assert "The 12 largest groups have a number" in merge.explain(groups)
    assert "largest" not in merge.explain(fpet_groups(MATCH, GRID))


@pytest.mark.parametrize(
    ("shape", "grid"), [((32, 64), (4, 8)), ((518, 518), (37, 37)), ((30, 16), (15, 8))]
)
def test_any_grid_has_patches_that_can_be_read(
    shape: tuple[int, int], grid: tuple[int, int]
) -> None:
    pixels = np.zeros((*shape, 3), np.uint8)
    groups = fpet_groups(np.zeros(len(fpet.partition(grid)[0]), int), grid)

    panel = merge.merged_panel(pixels, groups)

    assert panel.width / panel.height == pytest.approx(shape[1] / shape[0])
    assert panel.height // grid[0] >= 24 and panel.width // grid[1] >= 24


def test_a_png_has_the_image_the_groups_and_a_legend_on_no_background(pixels: np.ndarray) -> None:
    groups = fpet_groups(MATCH, GRID)
    canvas = np.asarray(Image.open(io.BytesIO(merge.merge_picture(pixels, {6: groups}, "title"))))
    margin, gap, top = 20, 24, 65

    assert canvas.shape[1:] == (2 * SIDE + gap + 2 * margin, 4)
    assert canvas[0, 0].tolist() == canvas[-1, -1].tolist() == [0, 0, 0, 0]
    second = canvas[top : top + SIDE, margin + SIDE + gap :][:, :SIDE, :3]
    assert (second == np.asarray(merge.merged_panel(pixels, groups))).all()
    text = canvas[top + SIDE :]
    assert (text[..., 3] == 255).any()
    assert not text[:, -margin:, 3].any()  # no line is longer than the panels


def test_the_text_reads_on_white_and_on_black() -> None:
    # WCAG asks for a contrast of 3 of large text
    linear = (merge._INK[0] / 255 + 0.055) / 1.055
    luminance = linear**2.4
    assert 1.05 / (luminance + 0.05) >= 3
    assert (luminance + 0.05) / 0.05 >= 3


def test_a_title_may_hold_any_letters(pixels: np.ndarray) -> None:
    assert merge.merge_picture(pixels, {6: fpet_groups(MATCH, GRID)}, "Füchse · 狐 \U0001f98a")
