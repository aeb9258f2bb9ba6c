"""A number and its noun, in the right form."""

from __future__ import annotations

import pytest

from engines.plurals import counted


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ((0, "image"), "0 images"),
        ((1, "image"), "1 image"),
        ((2, "image"), "2 images"),
        ((1, "class", "classes"), "1 class"),
        ((3, "class", "classes"), "3 classes"),
    ],
)
def test_a_noun_fits_its_number(words: tuple[int, str], text: str) -> None:
    assert counted(*words) == text
