"""The parity table for people: columns in words, each explained, losses and ties in sentences."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from engines.parity.rows import ParityTable, StageParity
from engines.parity.table import FIGURES, meanings, remarks, table_rows

ROW = StageParity(
    stage="onnx",
    images=8,
    largest_logit_difference=1.5e-5,
    relative=1e-6,
    sqnr_db=84.04,
    agreement=1.0,
)
MERGED = dataclasses.replace(
    ROW, same_partner=0.99997, unexplained_flips=0, tokens_kept=197, tokens_expected=197
)


def row(**changes: Any) -> StageParity:
    return dataclasses.replace(MERGED, **changes)


def table(*rows: StageParity, tied: int | None = None) -> ParityTable:
    return ParityTable(images="8 images", reference="run", rows=rows, tied_images=tied)


def test_a_row_without_numbers_has_a_cross_though_nobody_judges_it() -> None:
    endless = row(stage="checkpoint f32", largest_logit_difference=math.inf)
    marks = [cells[0] for cells in table_rows([endless, row(stage="folded")], heading="task")]

    assert endless.passed
    assert marks == ["task", "✗ checkpoint f32", "folded"]


def test_a_column_has_the_name_of_its_figure_in_json() -> None:
    for figure in FIGURES:
        assert figure.key in {field.name for field in dataclasses.fields(StageParity)}
    assert [figure.name for figure in FIGURES] == [
        "largest logit difference", "relative", "signal to noise (SQNR)", "agreement",
        "smallest cosine", "same partner", "accuracy",
    ]  # fmt: skip


def test_a_row_has_a_cell_for_every_column_that_any_row_has() -> None:
    heading, first, second = table_rows([MERGED, row(stage="engine", same_partner=None)])

    assert heading[-1] == "same partner"  # without labels there is no accuracy
    assert first == ("onnx", "1.5e-05", "1.0e-06", "84.0 dB", "100.0%", "99.99%")
    assert second[-1] == "–"


def test_a_share_below_all_never_reads_as_all() -> None:
    (_, cells), (_, whole) = table_rows([MERGED]), table_rows([row(same_partner=1.0)])

    assert (cells[-1], whole[-1]) == ("99.99%", "100.0%")


@pytest.mark.parametrize(
    ("sqnr_db", "text"), [(math.inf, "∞"), (-math.inf, "-inf dB"), (3.14, "3.1 dB")]
)
def test_only_equal_outputs_have_an_infinite_ratio(sqnr_db: float, text: str) -> None:
    assert table_rows([row(sqnr_db=sqnr_db)])[1][3] == text


def test_a_stage_that_failed_is_marked() -> None:
    failed = row(failures=("3 unexplained flips of the match",))

    assert [line[0] for line in table_rows([MERGED, failed])[1:]] == ["onnx", "✗ onnx"]


def test_every_column_shown_is_explained() -> None:
    assert len(meanings([ROW])) == 4
    assert [line.partition(":")[0] for line in meanings([row(accuracy=0.5)])] == list(
        table_rows([row(accuracy=0.5)])[0][1:]
    )


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (table(MERGED, tied=0), []),
        (table(ROW), []),
        (table(row(tokens_kept=196)), ["onnx keeps 196 of 197 tokens on the worst image"]),
        (table(MERGED, tied=1), ["the published rule would drop a tied token on 1 image; the "
                                 "argmax keeps it"]),
        (table(MERGED, tied=2), ["the published rule would drop a tied token on 2 images; the "
                                 "argmax keeps it"]),
    ],
)  # fmt: skip
def test_lost_tokens_and_ties_are_sentences(found: ParityTable, said: list[str]) -> None:
    assert remarks(found) == said
