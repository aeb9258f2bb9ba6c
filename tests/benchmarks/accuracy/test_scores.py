"""Accuracy, five best and agreement of answers that are known, and the journal of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.accuracy.journal import Journal
from benchmarks.accuracy.scores import KEPT, accuracy_lines, best_classes, score

LOGITS = np.array(
    [
        [9, 8, 7, 6, 5, 4, 3],  # class 0
        [0, 9, 1, 2, 3, 4, 5],  # class 1
        [1, 1, 1, 1, 1, 1, 1],  # class 0: the first of equal ones
        [7, 6, 5, 4, 3, 2, 1],  # class 0; 5 and 6 are not among its five best
    ],
    np.float32,
)
LABELS = np.array([0, 2, 4, 6])


def test_the_best_come_first_and_of_equal_ones_the_first_class() -> None:
    best = best_classes(LOGITS)
    assert best.shape == (4, KEPT)
    assert best[1].tolist() == [1, 6, 5, 4, 3]
    assert best[2].tolist() == [0, 1, 2, 3, 4]


def test_fewer_classes_are_filled_up() -> None:
    assert best_classes(LOGITS[:, :3])[0].tolist() == [0, 1, 2, -1, -1]


def test_what_the_answers_come_to() -> None:
    found = score(
        best_classes(LOGITS),
        data="4 images",
        classes=7,
        labels=LABELS,
        names=("a", "b", "c", "d", "e", "f", "g"),
        expected=np.array([0, 1, 0, 5]),
        reference="model.onnx",
    )
    assert (found.top1, found.top5, found.agreement) == (0.25, 0.5, 0.75)
    assert [(one.name, one.images, one.correct) for one in found.classes] == [
        ("a", 1, 1), ("c", 1, 0), ("e", 1, 0), ("g", 1, 0),
    ]  # fmt: skip
    assert accuracy_lines("model.cpu", found, worst=2) == [
        "model.cpu: accuracy 25.0%, top 5 50.0%, the class of model.onnx on 75.0% · 4 images",
        "weakest classes of model.cpu: c 0 of 1, e 0 of 1",
    ]


def test_without_labels_and_reference_there_is_neither() -> None:
    found = score(best_classes(LOGITS), data="4 images", classes=7)
    assert (found.top1, found.top5, found.agreement, found.classes) == (None, None, None, ())
    assert accuracy_lines("a", found) == ["a: nothing to compare with · 4 images"]


def test_five_of_five_classes_say_nothing() -> None:
    best = best_classes(LOGITS[:, :5])
    assert score(best, data="", classes=5, labels=np.array([0, 1, 2, 3])).top5 is None


def test_a_journal_goes_on_where_it_was(tmp_path: Path) -> None:
    path, key = tmp_path / "a.jsonl", {"images": "x"}
    first = Journal(path, key)
    first.add("A", best_classes(LOGITS[:2]))
    first.add("B", best_classes(LOGITS[:1]))

    again = Journal(path, key)

    assert again.known("A").tolist() == best_classes(LOGITS[:2]).tolist()
    again.add("A", best_classes(LOGITS[2:]))
    assert Journal(path, key).known("A").tolist() == best_classes(LOGITS).tolist()
    assert len(Journal(path, key).known("B")) == 1
    assert Journal(path, key).known("C").shape == (0, KEPT)


@pytest.mark.parametrize("cut", range(1, 40, 3))
def test_a_line_that_was_cut_off_counts_for_nothing(tmp_path: Path, cut: int) -> None:
    path, key = tmp_path / "a.jsonl", {"images": "x"}
    journal = Journal(path, key)
    journal.add("A", best_classes(LOGITS[:1]))
    journal.add("A", best_classes(LOGITS[1:2]))
    text = path.read_text()
    path.write_text(text[:-cut])

    again = Journal(path, key)

    whole = 2 if cut == 1 else 1  # the first cut is the line's end alone
    assert again.known("A").tolist() == best_classes(LOGITS[:whole]).tolist()
    again.add("A", best_classes(LOGITS[2:3]))
    rows = [*range(whole), 2]
    assert Journal(path, key).known("A").tolist() == best_classes(LOGITS[rows]).tolist()


def test_answers_about_other_images_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    Journal(path, {"images": "x"}).add("A", best_classes(LOGITS))
    assert len(Journal(path, {"images": "y"}).known("A")) == 0
    assert len(Journal(path, {"images": "x"}).known("A")) == 0


def test_without_a_file_nothing_is_kept() -> None:
    journal = Journal(None, {})
    journal.add("A", best_classes(LOGITS))
    assert len(journal.known("A")) == len(LOGITS)
    journal.remove()
