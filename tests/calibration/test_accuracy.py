"""A constraint is kept by putting the noisiest layers back, or refused: on additive noise."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration.accuracy import (
    AccuracyConstraint,
    LayerChoice,
    Quality,
    RevertedLayer,
    quality_json,
    satisfy,
)
from calibration.policy import Policy
from engines.errors import BudgetError

NOISE = {"a": 1e-3, "b": 4e-2, "c": 1e-5, "d": 2e-2}
"""Noise power of each layer beside a signal of power one."""


class Network:
    """Every quantized layer adds its noise; counts what was measured."""

    def __init__(self, noise: Mapping[str, float]) -> None:
        self.noise = noise
        self.measured: list[tuple[str, ...]] = []

    @property
    def policy(self) -> Policy:
        return Policy("vit-linear", tuple(self.noise))

    def measure(self, policy: Policy) -> Quality:
        self.measured.append(policy.active)
        return quality_of(sum(self.noise[layer] for layer in policy.active))


def quality_of(noise: float) -> Quality:
    return Quality(
        images=64,
        sqnr_db=math.inf if noise == 0 else -10 * math.log10(noise),
        agreement=1 - min(noise, 1.0),
        accuracy=0.9 - min(noise, 0.9),
        reference_accuracy=0.9,
    )


def keep(noise: Mapping[str, float], constraint: AccuracyConstraint) -> tuple[LayerChoice, Network]:
    network = Network(noise)
    return satisfy(network.policy, constraint, network.measure), network


def test_without_demands_the_preset_is_measured_once() -> None:
    kept, network = keep(NOISE, AccuracyConstraint())

    assert network.measured == [("a", "b", "c", "d")]
    assert kept.policy == network.policy
    assert kept.steps == ()
    assert kept.before == kept.quality


def test_the_noisiest_go_back_first_and_no_more_than_needed() -> None:
    kept, network = keep(NOISE, AccuracyConstraint(min_sqnr_db=25))

    assert kept.policy.kept == ("b", "d")
    assert kept.policy.active == ("a", "c")
    assert [step.layer for step in kept.steps] == ["b", "d"]
    assert kept.before.sqnr_db == pytest.approx(12.15, abs=0.01)
    assert kept.quality.sqnr_db == pytest.approx(29.96, abs=0.01)
    assert [step.alone for step in kept.steps] == [quality_of(NOISE["b"]), quality_of(NOISE["d"])]
    assert kept.steps[-1].after == kept.quality
    assert network.measured[:2] == [("a", "b", "c", "d"), ()]
    assert network.measured[2:6] == [("a",), ("b",), ("c",), ("d",)]
    assert network.measured[6:] == [("a", "c", "d"), ("a", "c")]


@given(
    st.dictionaries(
        st.sampled_from("abcdefgh"),
        st.floats(1e-8, 1e-1).filter(lambda noise: noise > 0),
        min_size=1,
    ),
    st.floats(0, 90),
)
def test_the_first_policy_on_the_way_that_keeps_the_promise(
    noise: dict[str, float], wanted: float
) -> None:
    """The expectation is written out from the description, without the loop under test."""
    order = sorted(noise, key=lambda layer: -noise[layer])
    ways = [[layer for layer in noise if layer not in order[:count]] for count in range(len(noise))]
    good = [way for way in ways if -10 * math.log10(sum(noise[layer] for layer in way)) >= wanted]

    if not good:
        with pytest.raises(BudgetError):
            keep(noise, AccuracyConstraint(min_sqnr_db=wanted))
        return
    kept, _ = keep(noise, AccuracyConstraint(min_sqnr_db=wanted))
    assert len(kept.policy.active) == len(good[0])
    assert sum(noise[layer] for layer in kept.policy.active) == pytest.approx(
        sum(noise[layer] for layer in good[0])
    )


def test_layers_that_were_kept_from_the_start_are_not_measured() -> None:
    network = Network(NOISE)

    kept = satisfy(network.policy.without("a"), AccuracyConstraint(min_sqnr_db=25), network.measure)

    assert kept.policy.kept == ("a", "b", "d")
    assert all("a" not in active for active in network.measured)


def test_a_promise_that_only_an_unquantized_graph_keeps_is_refused() -> None:
    with pytest.raises(BudgetError, match="only with no layer quantized") as caught:
        keep(NOISE, AccuracyConstraint(min_sqnr_db=51))

    assert caught.value.exit_code == 8
    assert "4 layers of vit-linear, on 64 images" in caught.value.where


def test_a_promise_that_nothing_keeps_is_given_up_at_once() -> None:
    noise = {"a": 1e-3, "b": 1e-3}
    measured = []

    def measure(policy: Policy) -> Quality:
        """Half precision itself is at 30 dB."""
        measured.append(policy.active)
        return quality_of(1e-3 + sum(noise[layer] for layer in policy.active))

    with pytest.raises(BudgetError, match=r"SQNR\) 30\.0 dB, limit 60") as caught:
        satisfy(Policy("vit-linear", ("a", "b")), AccuracyConstraint(min_sqnr_db=60), measure)

    assert "even with nothing quantized" in caught.value.what
    assert "relax the limit" in caught.value.fix
    assert measured == [("a", "b"), ()]


def test_the_worst_of_not_a_number_goes_back_first() -> None:
    broken = {"a": 1e-3, "b": math.nan, "c": 1e-2}

    def measure(policy: Policy) -> Quality:
        noise = 1e-9 + sum(broken[layer] for layer in policy.active)
        return Quality(images=4, sqnr_db=-10 * math.log10(noise), agreement=0.0)

    kept = satisfy(Policy("vit-linear", tuple(broken)), AccuracyConstraint(min_sqnr_db=15), measure)

    assert kept.policy.kept == ("b",)


def test_who_wants_to_know_is_told() -> None:
    network, screened = Network(NOISE), Network(NOISE)
    steps: list[RevertedLayer] = []
    counts: list[int] = []

    kept = satisfy(
        network.policy,
        AccuracyConstraint(min_sqnr_db=25),
        network.measure,
        screen=screened.measure,
        report=steps.append,
        progress=counts.append,
    )

    assert counts == [1, 1, 1, 1]
    assert tuple(steps) == kept.steps
    assert screened.measured == [("a",), ("b",), ("c",), ("d",)]
    assert network.measured == [("a", "b", "c", "d"), (), ("a", "c", "d"), ("a", "c")]


# The constraint


@pytest.mark.parametrize(
    ("constraint", "missed"),
    [
        (AccuracyConstraint(), 0),
        (AccuracyConstraint(max_drop_pp=2.0), 0),
        (AccuracyConstraint(max_drop_pp=1.9), 1),
        (AccuracyConstraint(min_sqnr_db=30.0), 0),
        (AccuracyConstraint(min_sqnr_db=30.1), 1),
        (AccuracyConstraint(min_agreement=0.97), 0),
        (AccuracyConstraint(min_agreement=0.971), 1),
        (AccuracyConstraint(max_drop_pp=-1, min_sqnr_db=99, min_agreement=1.0), 3),
    ],
)
def test_each_demand_is_judged_by_itself(constraint: AccuracyConstraint, missed: int) -> None:
    quality = Quality(
        images=100, sqnr_db=30.0, agreement=0.97, accuracy=0.88, reference_accuracy=0.9
    )

    assert len(constraint.missed(quality)) == missed


def test_a_drop_without_labels_is_never_kept() -> None:
    quality = Quality(images=10, sqnr_db=math.inf, agreement=1.0)

    assert quality.drop_pp is None
    assert AccuracyConstraint(max_drop_pp=100).missed(quality) == (
        "no labels to measure a drop of accuracy on",
    )


@pytest.mark.parametrize("broken", [math.nan, -math.inf])
def test_logits_that_are_not_finite_keep_no_promise(broken: float) -> None:
    quality = Quality(images=10, sqnr_db=broken, agreement=math.nan)

    assert len(AccuracyConstraint(min_sqnr_db=-1000, min_agreement=0.0).missed(quality)) == 2


def test_the_sentences_have_both_numbers() -> None:
    quality = Quality(
        images=200, sqnr_db=18.94, agreement=0.985, accuracy=0.845, reference_accuracy=0.86
    )
    constraint = AccuracyConstraint(max_drop_pp=1, min_sqnr_db=20, min_agreement=0.99)

    assert constraint.missed(quality) == (
        "accuracy drops by 1.50 points, limit 1",
        "signal to noise (SQNR) 18.9 dB, limit 20 dB",
        "agreement 98.50%, limit 99.00%",
    )
    assert (
        quality.in_words()
        == "accuracy 84.5% (-1.5 pp) · agreement 98.5% · signal to noise (SQNR) 18.9 dB"
    )


def test_accuracy_that_was_won_is_no_drop() -> None:
    quality = Quality(images=10, sqnr_db=20, agreement=0.9, accuracy=0.9, reference_accuracy=0.8)

    assert quality.drop_pp == pytest.approx(-10)
    assert "(+10.0 pp)" in quality.in_words()
    assert AccuracyConstraint(max_drop_pp=0).missed(quality) == ()


# JSON


def test_json_says_everything_and_no_number_that_json_lacks() -> None:
    kept, _ = keep(NOISE, AccuracyConstraint(min_sqnr_db=25))
    document = json.loads(json.dumps(kept.to_json(), allow_nan=False))

    assert document["preset"] == "vit-linear"
    assert document["quantized"] == ["a", "c"]
    assert document["kept"] == ["b", "d"]
    assert [step["layer"] for step in document["steps"]] == ["b", "d"]
    assert document["quality"]["sqnr_db"] == kept.quality.sqnr_db
    for value in (math.inf, -math.inf, math.nan):
        assert quality_json(Quality(images=1, sqnr_db=value, agreement=1.0))["sqnr_db"] is None
