"""The tables of docs/prediction.md, and the constants, are those that the experiment makes."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest

from benchmarks.experiments import prediction
from benchmarks.prediction.constants import START, Constants

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs/prediction.md"


@pytest.fixture(scope="module")
def cases() -> list[prediction.Case]:
    return prediction.read_cases()


@pytest.fixture(scope="module")
def judged(cases: list[prediction.Case]) -> list[prediction.Judged]:
    return prediction.judge(cases)


def table(name: str) -> str:
    found = re.search(
        rf"<!-- benchmarks.experiments.prediction: {name} -->\n(.*?)\n<!-- end -->",
        PAGE.read_text("utf-8"),
        re.DOTALL,
    )
    assert found is not None, name
    return found[1]


def test_the_page_shows_what_the_experiment_finds(
    cases: list[prediction.Case], judged: list[prediction.Judged]
) -> None:
    assert table("judged") == prediction.markdown(judged)
    assert table("ratios") == prediction.ratios_markdown(cases)
    assert table("boards") == prediction.boards_markdown()


def test_the_page_counts_what_lies_in_its_range(judged: list[prediction.Judged]) -> None:
    text = " ".join(PAGE.read_text("utf-8").split())
    fitted = [one for one in judged if one.fitted]
    others = [one for one in judged if not one.fitted]

    assert (
        f"{sum(one.inside for one in fitted)} of the {len(fitted)} latencies that take part" in text
    )
    assert f"{sum(one.inside for one in others)} of these {len(others)} lie in their range" in text


def test_the_start_values_are_those_of_the_fit(cases: list[prediction.Case]) -> None:
    found = prediction.calibrated([case for case in cases if case.fitted])

    for field in dataclasses.fields(Constants):
        name = field.name
        assert getattr(START.constants, name) == pytest.approx(
            getattr(found.constants, name), rel=0.03
        )
    assert START.factor == pytest.approx(found.factor, rel=0.03)


def test_a_device_is_judged_by_the_others_alone(cases: list[prediction.Case]) -> None:
    """Were its own rows used, ten times slower ones would be predicted ten times slower."""
    slower = [
        dataclasses.replace(
            case, row=dataclasses.replace(case.row, measured_ms=case.row.measured_ms * 10)
        )
        if case.device == "h200"
        else case
        for case in cases
    ]

    def middle(found: list[prediction.Judged], device: str) -> list[float]:
        return [one.off * one.measured_ms for one in found if one.device == device]

    before, after = prediction.judge(cases), prediction.judge(slower)
    assert middle(after, "h200") == pytest.approx(middle(before, "h200"))
    assert middle(after, "a100") != pytest.approx(middle(before, "a100"))


def test_every_row_names_its_source() -> None:
    document = json.loads(prediction.PUBLISHED.read_text("utf-8"))

    assert all(row["source"] for row in document["rows"])
    assert all(entry["why"] for entry in document["left_out"])
