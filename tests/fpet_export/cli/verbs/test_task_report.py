"""The page of a folder of tasks: its sentence, and an accuracy that nobody is sure of."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest

from engines.imaging.class_names import BY_ORDER
from fpet_export.tasks import report
from tests.fpet_export.cli.verbs.test_verdict import row, table


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("pets",), "pets gives the same class as its fine-tuned model on all 20 images; its"),
        (("a", "b"), "Both tasks give the same class as their fine-tuned models on all 40 images;"),
        (("a", "b", "c"), "All 3 tasks give the same class"),
    ],
)
def test_one_sentence_for_one_task_and_for_many(names: tuple[str, ...], said: str) -> None:
    sentence = report._sentence(table(*(row(name, agreement=1.0) for name in names)), None)

    assert sentence.startswith(said)
    assert sentence.endswith(" speed was not measured.")


def test_images_that_change_their_class_are_counted() -> None:
    found = table(row("a", agreement=1.0), row("b", agreement=0.95))

    assert "on 39 of 40 images" in report._sentence(found, None)
    assert report._statement(found).state == "open"


def test_a_task_that_drifts_is_all_that_is_said() -> None:
    bad = row("b", failures=("relative difference 0.3",))

    assert report._sentence(table(row("a"), bad), bad) == (
        "The answers of b are not equal (relative difference 0.3). Do not use this folder."
    )
    assert report._statement(table(row("a"), bad)).state == "bad"


def test_an_accuracy_by_the_order_of_folders_has_a_question_mark() -> None:
    index: Any = SimpleNamespace(structures=(1,), tasks=(1, 2))
    sure = table(row("a", accuracy=0.9), row("b", accuracy=0.8))
    unsure = dataclasses.replace(sure, labels=BY_ORDER["folders"])

    def accuracy(found: Any) -> tuple[str, str, str]:
        tile = report._tiles(index, found, [])[2]
        return tile.value, tile.label, tile.state

    assert accuracy(sure) == ("80.0%", "lowest accuracy (b)", "good")
    assert accuracy(unsure) == (
        "80.0%?", "lowest accuracy (b), labels by folder order", "open",
    )  # fmt: skip
