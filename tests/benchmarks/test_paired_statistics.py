from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.paired_statistics import (
    Nanoseconds,
    bootstrap_median,
    compare,
    decide,
    percentile,
    summarise,
)

samples = st.lists(st.integers(1, 10**10), min_size=1, max_size=300).map(
    lambda values: np.array(values, np.int64)
)
pairs = st.lists(
    st.tuples(st.integers(1, 10**9), st.integers(1, 10**9)), min_size=1, max_size=60
).map(lambda values: np.array(values, np.int64))


def paired(
    ratio: float, *, rounds: int, seed: int, noise: float
) -> tuple[Nanoseconds, Nanoseconds]:
    """Return (contender, baseline): a common slow swing, and noise of each contender's own."""
    generator = np.random.default_rng(seed)
    swing = 1 + 0.3 * np.sin(np.arange(rounds) / 7)
    own = np.exp(noise * generator.standard_normal((2, rounds)))
    baseline = 1e7 * swing * own[0]
    contender = ratio * 1e7 * swing * own[1]
    return contender.astype(np.int64), baseline.astype(np.int64)


@given(samples)
def test_percentiles_rise_and_are_samples_that_happened(values: Nanoseconds) -> None:
    summary = summarise(values, batch=1)

    rising = [
        summary.min_ns,
        summary.p50_ns,
        summary.p90_ns,
        summary.p95_ns,
        summary.p99_ns,
        int(values.max()),
    ]
    assert rising == sorted(rising)
    assert set(rising) <= set(values.tolist())


@given(samples, st.integers(1, 99))
def test_at_least_that_share_of_samples_is_not_slower(values: Nanoseconds, percent: int) -> None:
    value = percentile(np.sort(values), percent)

    assert (values <= value).mean() >= percent / 100
    assert (values < value).mean() <= percent / 100 + 1 / len(values)


def test_percentiles_of_one_to_hundred_are_the_numbers_themselves() -> None:
    ordered = np.arange(1, 101)

    assert [percentile(ordered, percent) for percent in (0, 50, 90, 95, 99, 100)] == [
        1, 50, 90, 95, 99, 100,
    ]  # fmt: skip


def test_images_per_second_count_the_batch() -> None:
    summary = summarise(np.array([20_000_000, 20_000_000, 90_000_000]), batch=8)

    assert summary.images_per_s == pytest.approx(400.0)


@given(pairs)
def test_swapping_contender_and_baseline_gives_the_reciprocal(values: Nanoseconds) -> None:
    one = compare(values[:, 0], values[:, 1], baseline="b")
    other = compare(values[:, 1], values[:, 0], baseline="a")

    assert one.ratio == pytest.approx(1 / other.ratio, rel=1e-12)
    assert one.low == pytest.approx(1 / other.high, rel=1e-9)
    assert one.high == pytest.approx(1 / other.low, rel=1e-9)
    opposite = {"faster": "slower", "slower": "faster"}
    assert other.verdict == opposite.get(one.verdict, one.verdict)


@given(pairs)
def test_interval_holds_the_ratio(values: Nanoseconds) -> None:
    found = compare(values[:, 0], values[:, 1], baseline="b")

    assert found.low <= found.ratio * (1 + 1e-12)
    assert found.ratio <= found.high * (1 + 1e-12)


@pytest.mark.parametrize("ratio", [0.76, 1.0, 1.3])
def test_interval_covers_the_known_ratio_about_as_often_as_it_says(ratio: float) -> None:
    covered = 0
    for seed in range(100):
        found = compare(*paired(ratio, rounds=40, seed=seed, noise=0.05), baseline="b")
        covered += found.low <= ratio <= found.high

    # 95 of 100 are promised; the bootstrap of a median of 40 is known to fall a little short.
    assert covered >= 85


def test_a_swing_of_the_whole_machine_does_not_hide_a_small_gain() -> None:
    contender, baseline = paired(0.95, rounds=60, seed=3, noise=0.01)

    found = compare(contender, baseline, baseline="b")

    assert np.median(baseline) / np.median(contender) != pytest.approx(1 / 0.95, rel=1e-3)
    assert found.verdict == "faster"
    assert found.speedup == pytest.approx(1 / 0.95, rel=0.01)


@pytest.mark.parametrize(("ratio", "verdict"), [(0.8, "1.25x faster"), (1.25, "1.25x slower")])
def test_verdict_names_a_real_difference_and_its_factor(ratio: float, verdict: str) -> None:
    found = compare(*paired(ratio, rounds=400, seed=1, noise=0.01), baseline="plain")

    assert found.words() == verdict
    assert f"{verdict} against plain" in found.sentence()


def test_same_engine_twice_shows_no_difference() -> None:
    verdicts = [
        compare(*paired(1.0, rounds=40, seed=seed, noise=0.05), baseline="b").verdict
        for seed in range(40)
    ]

    assert verdicts.count("no difference shown") >= 38


def test_a_difference_below_the_practical_margin_is_not_called_one() -> None:
    assert decide(0.995, 0.996) == "no difference shown"
    assert decide(0.995, 0.996, margin=0.0) == "faster"  # the margin made the difference


def test_bootstrap_is_repeatable_and_depends_on_its_seed() -> None:
    values = np.random.default_rng(0).standard_normal(50)

    assert bootstrap_median(values, seed=1) == bootstrap_median(values, seed=1)
    assert bootstrap_median(values, seed=1) != bootstrap_median(values, seed=2)


def test_five_rounds_are_too_few_for_a_verdict() -> None:
    contender, baseline = np.full(6, 100), np.full(6, 200)

    assert compare(contender[:5], baseline[:5], baseline="b").verdict == "no difference shown"
    assert compare(contender, baseline, baseline="b").verdict == "faster"
