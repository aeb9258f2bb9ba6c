"""How many images a check needs follows from what it must see."""

from __future__ import annotations

import pytest

from fpet_export.steps import parity_images
from fpet_export.steps.parity_images import own_images, synthetic_images

MISSED = 0.05


def test_a_fault_in_one_choice_of_a_hundred_is_hardly_missed() -> None:
    assert (1 - 1 / 100) ** parity_images.CHOICES < MISSED
    assert (1 - 1 / 100) ** (parity_images.CHOICES * 0.9) > MISSED  # and it takes about as many


def test_a_fault_on_one_image_of_ten_is_hardly_missed() -> None:
    assert (1 - 1 / 10) ** parity_images.OWN_IMAGES < MISSED
    assert (1 - 1 / 10) ** (parity_images.OWN_IMAGES * 0.8) > MISSED


@pytest.mark.parametrize(
    ("merged", "images"),
    [
        (98, 4),  # 197 tokens, patch 16 at 224 pixels
        (128, 4),  # 257 tokens, patch 14
        (684, 4),  # 1370 tokens, patch 14 at 518 pixels
        (60, 5),
        (2, 8),  # a toy
        (0, 4),  # nothing merges
    ],
)
def test_synthetic_images_give_enough_choices(merged: int, images: int) -> None:
    assert synthetic_images(merged) == images
    assert images == parity_images.MOST or merged == 0 or images * merged >= parity_images.CHOICES


def test_the_users_limit_stands_and_a_limit_on_accuracy_needs_more_images() -> None:
    assert own_images(7, judges_accuracy=True) == own_images(7, judges_accuracy=False) == 7
    assert own_images(None, judges_accuracy=False) == 32
    assert own_images(None, judges_accuracy=True) == 128
