"""Groups of patches that became one token, on grids that fit on paper.

On a 4 x 4 grid set A is 0 2 8 10 5 7 13 15 and set B is 4 6 12 14 1 3 9 11.
"""

from __future__ import annotations

import numpy as np
import pytest

from tests.fpet_export.pictures.fpet_groups import fpet_groups

GRID = (4, 4)

# 0->4 down, 2->1 left, 8->4 up, 10->11 right, 5->9 down, 7->6 left, 13->3 far, 15->11 up
MATCH = np.array([0, 4, 0, 7, 6, 1, 5, 7])
DROPPED = np.array([0, 4, -1, 7, 6, 1, -1, 7])


def test_every_patch_has_the_patch_that_it_ended_in() -> None:
    assert fpet_groups(MATCH, GRID).owner.tolist() == [
        [4, 1, 1, 3],
        [4, 9, 6, 6],
        [4, 9, 11, 11],
        [12, 3, 14, 11],
    ]


def test_the_largest_group_comes_first_and_patches_alone_are_no_group() -> None:
    groups = fpet_groups(MATCH, GRID)

    assert groups.merged == (4, 11, 1, 3, 6, 9)
    assert groups.sizes == (3, 3, 2, 2, 2, 2)
    assert (groups.alone, groups.dropped, groups.tokens) == (2, 0, 8)


def test_a_dropped_patch_belongs_to_no_group() -> None:
    groups = fpet_groups(DROPPED, GRID)

    assert groups.owner[2, 0] == groups.owner[3, 1] == -1
    assert (groups.owner >= 0).sum() == 14
    assert (groups.alone, groups.dropped, groups.tokens) == (3, 2, 8)
    assert sum(groups.sizes) + groups.alone + groups.dropped == 16


def test_a_grid_that_is_not_square() -> None:
    # a 2 x 3 grid: A is 0 2 4, B is 3 5 1
    groups = fpet_groups(np.array([0, 2, 2]), (2, 3))

    assert groups.owner.tolist() == [[3, 1, 1], [3, 1, 5]]
    assert groups.sizes == (3, 2)


@pytest.mark.parametrize(
    ("match", "said"),
    [
        (MATCH, "16 patches became 8 tokens: 6 groups of 2 to 3 merged patches, 2 patches alone"),
        (
            DROPPED,
            "16 patches became 8 tokens: 5 groups of 2 to 3 merged patches, 3 patches alone, "
            "2 patches dropped",
        ),
        (
            np.zeros(8, int),
            "16 patches became 8 tokens: 1 group of 9 merged patches, 7 patches alone",
        ),
        (
            np.arange(8),
            "16 patches became 8 tokens: 8 groups of 2 merged patches",
        ),
        (np.full(8, -1), "16 patches became 8 tokens: 8 patches alone, 8 patches dropped"),
    ],
)
def test_the_counts_in_words(match: np.ndarray, said: str) -> None:
    assert fpet_groups(match, GRID).describe() == said


def test_the_counts_as_json() -> None:
    assert fpet_groups(DROPPED, GRID).to_json() == {
        "patches": 16, "tokens": 8, "merged_groups": 5, "largest_group": 3, "alone": 3,
        "dropped": 2,
    }  # fmt: skip
    assert fpet_groups(np.full(8, -1), GRID).to_json()["largest_group"] == 0
