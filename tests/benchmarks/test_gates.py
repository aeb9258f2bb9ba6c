"""Budgets and regressions: kept, missed, or not known, and the last is never a pass."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from benchmarks.gates import judge_budget, judge_regressions, judged, regressions
from benchmarks.limits import UNITS, parse_limit, unmeasured
from benchmarks.measurement import Measurement
from benchmarks.scenarios.cold import ColdStart
from benchmarks.scenarios.running import ScenarioResults
from engines.errors import BudgetError, InputError, UsageError
from tests.benchmarks.made_measurements import NOISE, measurement
from tests.benchmarks.report.test_fleet import changed, with_energy


def limits(*texts: str) -> list[Any]:
    return [parse_limit(text) for text in texts]


@pytest.mark.parametrize(
    ("text", "quantity", "most"),
    [
        ("p99=12ms", "p99", 12e6),
        ("p50=0.5ms", "p50", 0.5e6),
        ("p95=900us", "p95", 900e3),
        ("p90=1s", "p90", 1e9),
        ("energy=90mJ", "energy", 90.0),
        ("energy=0.09J", "energy", 90.0),
        ("memory=1.5GB", "memory", 1.5e9),
        ("memory=1GiB", "memory", 2.0**30),
    ],
)
def test_a_limit_is_read_with_its_unit(text: str, quantity: str, most: float) -> None:
    found = parse_limit(text)

    assert found.quantity == quantity
    assert found.most == pytest.approx(most)
    assert found.quantity in UNITS


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("p99=12", "is no limit"), ("p99", "is no limit"), ("p99=-1ms", "is no limit"),
        ("p99=1e3ms", "is no limit"), ("p999=1ms", "'p999' is not one of"),
        ("p99=12mJ", "'mJ' is no unit of p99"), ("energy=90kWh", "'kWh' is no unit of energy"),
        ("memory=1.5gb", "'gb' is no unit"), ("", "is no limit"),
    ],
)  # fmt: skip
def test_what_is_no_limit_is_refused(text: str, words: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_limit(text)

    assert words in refused.value.what


def test_a_budget_is_kept_or_missed_by_ours_alone() -> None:
    """The plain model takes 5 ms, which no limit is for."""
    one = measurement(5.0, 4.0)

    (line,) = judge_budget(one, limits("p99=4.5ms"))
    assert line.startswith("merged: p99 4.")
    with pytest.raises(BudgetError, match=r"p50 [\d.]+ ms of p50=3\.9ms"):
        judge_budget(one, limits("p99=4.5ms", "p50=3.9ms"))


def test_a_rival_that_was_asked_for_is_not_judged() -> None:
    one = dataclasses.replace(measurement(5.0, 4.0), plain=None)

    assert [each.name for each in judged(one, "plain")] == ["merged"]
    with pytest.raises(BudgetError, match="plain: p50"):
        judge_budget(one, limits("p50=4.5ms"))
    assert judge_budget(one, limits("p50=4.5ms"), rival="plain")


def test_nothing_to_judge_is_no_pass() -> None:
    alone = dataclasses.replace(measurement(), contenders=measurement().contenders[:1])

    for rival, plain in (("plain", None), (None, "plain")):
        one = dataclasses.replace(alone, plain=plain)
        with pytest.raises(BudgetError, match="nothing to judge"):
            judge_budget(one, limits("p99=1s"), rival=rival)


@pytest.mark.parametrize(
    ("text", "fix"), [("energy=90mJ", "add --energy"), ("memory=1GB", "add --scenario cold")]
)
def test_what_was_not_measured_is_an_error(text: str, fix: str) -> None:
    with pytest.raises(BudgetError, match="was not measured") as refused:
        judge_budget(measurement(), limits("p99=1s", text))

    assert refused.value.fix == fix
    assert refused.value.exit_code == 8
    wanted = [(text, fix)]
    assert list(unmeasured(limits("p99=1s", text), energy=False, cold=False)) == wanted
    assert not list(unmeasured(limits(text), energy=True, cold=True))


def test_energy_and_memory_are_judged_where_they_are_known() -> None:
    one = with_energy(measurement(), 40.0, 31.0)
    cold = ColdStart(
        first_answer_s=1.0, open_s=0.5, first_run_s=0.1, next_run_s=0.01, peak_bytes=10**9,
        taken_bytes=2 * 10**9,
    )  # fmt: skip
    scenarios = ScenarioResults(cold=cold)
    contenders = tuple(dataclasses.replace(each, scenarios=scenarios) for each in one.contenders)
    one = dataclasses.replace(one, contenders=contenders)

    assert len(judge_budget(one, limits("energy=31.5mJ", "memory=2.1GB"))) == 2
    with pytest.raises(BudgetError, match="energy 31 mJ of energy=30mJ"):
        judge_budget(one, limits("energy=30mJ"))
    with pytest.raises(BudgetError, match="memory 2 GB"):  # the GPU of a board counts, too
        judge_budget(one, limits("memory=1.5GB"))


def test_nothing_is_judged_by_noise() -> None:
    spoiled = measurement(findings=(NOISE,))

    with pytest.raises(BudgetError, match="not valid: others used 50%"):
        judge_budget(spoiled, limits("p99=1s"))
    for pair in ((spoiled, measurement()), (measurement(), spoiled)):
        with pytest.raises(BudgetError, match="not valid"):
            regressions(*pair, where="old.json")


def old(merged: float = 4.0, **more: Any) -> Measurement:
    """A measurement of before, of another artefact."""
    return changed(measurement(5.0, merged, seed=1, **more), "merged", sha256="1" * 64)


def test_two_measurements_apart_say_so() -> None:
    (same,) = regressions(measurement(5.0, 4.0), old(), where="old.json")
    (slower,) = regressions(measurement(5.0, 4.4), old(), where="old.json")

    assert same.how == slower.how == "apart"
    assert same.low < same.ratio < same.high
    (line,) = judge_regressions([same], most_percent=3)
    assert "measured apart, not paired" in line
    with pytest.raises(BudgetError, match="more than 3 % slower") as refused:
        judge_regressions([slower], most_percent=3)
    assert refused.value.exit_code == 8
    assert judge_regressions([slower], most_percent=20)


def test_the_old_artefact_in_the_same_rounds_is_paired() -> None:
    before = dataclasses.replace(old(), contenders=old().contenders[1:], plain=None)
    now = dataclasses.replace(changed(measurement(5.0, 4.0), "plain", sha256="1" * 64), plain=None)

    (found,) = regressions(now, before, where="old.json", rival="plain")

    assert found.how == "paired"
    assert found.ratio == pytest.approx(0.8, rel=0.02)
    assert "in the same rounds" in found.sentence()


def test_a_regression_that_the_interval_does_not_show_says_what_would() -> None:
    unsure = dataclasses.replace(
        regressions(measurement(), old(), where="")[0], ratio=1.04, low=0.99, high=1.09
    )

    with pytest.raises(BudgetError) as refused:
        judge_regressions([unsure], most_percent=3)
    assert "--rounds" in refused.value.fix
    lucky = dataclasses.replace(unsure, ratio=1.02)
    assert "reaches beyond" in judge_regressions([lucky], most_percent=3)[0]


@pytest.mark.parametrize(
    ("before", "words"),
    [
        (old(batch=8), "at batch 8, this at batch 1"),
        (old(board=None, gpu="NVIDIA H200", target="cuda"), "measured on NVIDIA H200, this on"),
        (old(mode="15W"), "Orin Nano 8 GB 15W, this on"),
    ],
)
def test_what_is_not_alike_is_not_compared(before: Measurement, words: str) -> None:
    with pytest.raises(InputError) as refused:
        regressions(measurement(), before, where="old.json")

    assert words in refused.value.what
    assert refused.value.where == "old.json"


def test_a_contender_that_was_not_there_is_an_error() -> None:
    before = dataclasses.replace(old(), plain=None)  # two, neither of that name
    named = dataclasses.replace(measurement().contenders[1], name="other")
    now = dataclasses.replace(measurement(), contenders=(measurement().contenders[0], named))

    with pytest.raises(InputError, match="not each of other was measured there"):
        regressions(now, before, where="old.json")
