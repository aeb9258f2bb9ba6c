"""The rules that choose a range, each against its own definition."""

from __future__ import annotations

import math
from typing import cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from calibration import observers
from calibration.grids import FP8, INT8, SMALLEST_SCALE, Grid
from calibration.histogram import BINS, Histogram, merged, of_values
from calibration.observers import Observer, absmax, entropy, mse, percentile
from engines import registry

NAMES = registry.available(observers)
GRIDS = pytest.mark.parametrize("grid", [INT8, FP8], ids=lambda grid: grid.name)
SAMPLES = {
    "normal": np.random.default_rng(0).normal(size=50_000),
    "laplace": np.random.default_rng(1).laplace(size=50_000),
    "uniform": np.random.default_rng(2).uniform(-1, 1, 50_000),
    "outliers": np.concatenate(
        [np.random.default_rng(3).normal(size=50_000), np.full(20, 90.0), [-400.0]]
    ),
    "probabilities": np.random.default_rng(4).dirichlet(np.full(99, 0.05), 500).ravel(),
    "two sizes": np.concatenate([np.full(9_000, 0.01), np.full(1_000, 1.0)]),
}
SAMPLE = pytest.mark.parametrize("name", SAMPLES)


def rule(name: str) -> Observer:
    return cast(Observer, registry.load(observers, name))


def seen(name: str) -> tuple[np.ndarray, Histogram]:
    values = SAMPLES[name].astype(np.float32)
    return values, of_values(values)


# What every rule keeps


def test_the_four_rules_are_there() -> None:
    assert NAMES == ["absmax", "entropy", "mse", "percentile"]


@GRIDS
@pytest.mark.parametrize("observer", NAMES)
@SAMPLE
def test_a_range_holds_something_and_no_more_than_was_seen(
    observer: str, grid: Grid, name: str
) -> None:
    values, histogram = seen(name)

    amax = rule(observer).amax(histogram, grid)

    assert 0 < amax <= np.abs(values).max()


@GRIDS
@pytest.mark.parametrize("observer", NAMES)
@pytest.mark.parametrize("values", [[0.0] * 5, []], ids=["zeros", "nothing"])
def test_zeros_have_the_range_zero(observer: str, grid: Grid, values: list[float]) -> None:
    histogram = of_values(np.array(values, np.float32))

    assert rule(observer).amax(histogram, grid) == 0
    assert merged(histogram, histogram).largest == 0


@GRIDS
@pytest.mark.parametrize("observer", NAMES)
@pytest.mark.parametrize("value", [2.0**-149, 2.0**-100, 1.0, 2.0**126])
def test_one_value_is_its_own_range(observer: str, grid: Grid, value: float) -> None:
    histogram = of_values(np.full(100, value, np.float32))

    assert rule(observer).amax(histogram, grid) == pytest.approx(value, rel=1e-6)


@GRIDS
@pytest.mark.parametrize("observer", NAMES)
@SAMPLE
def test_the_range_scales_with_the_values(observer: str, grid: Grid, name: str) -> None:
    values, histogram = seen(name)
    wider = of_values(values * np.float32(8))  # exact, and far from the smallest scale

    if rule(observer).amax(histogram, grid) / grid.largest > SMALLEST_SCALE:
        assert rule(observer).amax(wider, grid) == 8 * rule(observer).amax(histogram, grid)


# absmax


@given(npst.arrays(np.float32, st.integers(1, 50), elements=st.floats(-1e6, 1e6, width=32)))
def test_absmax_is_the_largest_magnitude(values: np.ndarray) -> None:
    assert absmax.amax(of_values(values), INT8) == np.abs(values).max()


# percentile


@SAMPLE
def test_percentile_is_that_of_numpy_up_to_one_bin(name: str) -> None:
    values, histogram = seen(name)
    exact = float(np.percentile(np.abs(values), 99.99, method="inverted_cdf"))

    found = percentile.amax(histogram, INT8)

    width = 2.0**histogram.exponent / BINS
    assert exact <= found + 1e-12
    assert found <= exact + width


def test_percentile_clips_a_few_outliers_and_absmax_none() -> None:
    _, histogram = seen("outliers")

    assert percentile.amax(histogram, INT8) == pytest.approx(90, abs=0.2)
    assert absmax.amax(histogram, INT8) == 400


# mse


def squared_error(values: np.ndarray, grid: Grid, amax: float) -> float:
    rounded = grid.rounded(values, np.asarray(amax / grid.largest, np.float32))
    return float(np.square(rounded.astype(np.float64) - values).sum())


@GRIDS
@SAMPLE
def test_mse_is_near_the_best_that_a_brute_force_finds(name: str, grid: Grid) -> None:
    """By the error of the samples themselves, not of the histogram."""
    values, histogram = seen(name)
    values = values[:: len(values) // 4000]
    histogram = of_values(values)
    largest = np.abs(values).max()
    floor = grid.largest * SMALLEST_SCALE
    tried = [share * largest for share in np.linspace(0.02, 1.0, 500)]
    best = min(squared_error(values, grid, max(amax, floor)) for amax in tried)

    chosen = mse.amax(histogram, grid)

    # FP8's error does not depend on powers of two of the scale: the candidates and the bins
    # decide among many that are almost equal.
    slack = 1.05 if grid is INT8 else 1.15
    assert squared_error(values, grid, max(chosen, floor)) <= slack * best


@GRIDS
@SAMPLE
@pytest.mark.parametrize("other", ["absmax", "percentile", "entropy"])
def test_no_other_rule_has_a_smaller_squared_error(name: str, grid: Grid, other: str) -> None:
    _, histogram = seen(name)
    own = mse.error(histogram, grid, mse.amax(histogram, grid))
    theirs = mse.error(histogram, grid, rule(other).amax(histogram, grid))

    assert own <= (theirs if other == "absmax" else 1.05 * theirs)


def test_mse_clips_what_absmax_keeps() -> None:
    """The negative control: the rules differ where there are outliers."""
    values, histogram = seen("outliers")
    found = squared_error(values, INT8, mse.amax(histogram, INT8))

    assert found < 0.9 * squared_error(values, INT8, 400.0)


def test_mse_clips_one_far_outlier_among_a_million() -> None:
    """(40 - a)^2 of clipping against n (a / 127)^2 / 12 of rounding is least at a = 6.5."""
    values = np.random.default_rng(5).normal(size=1_000_000).astype(np.float32)
    values[0] = 40.0

    assert mse.amax(of_values(values), INT8) == pytest.approx(6.5, rel=0.05)


def test_mse_of_a_range_below_the_smallest_scale_keeps_everything() -> None:
    histogram = of_values(np.array([1e-3, 2e-3, 1e-4], np.float32))

    assert mse.amax(histogram, INT8) == histogram.largest


# entropy


def slow_divergence(counts: list[int], bins: int) -> float:
    """As the talk describes it, bin by bin."""
    p = [float(count) for count in counts[:bins]]
    p[-1] += sum(counts[bins:])
    q = [0.0] * bins
    for step in range(128):
        members = [place for place in range(bins) if place * 128 // bins == step]
        holding = [place for place in members if counts[place] > 0]
        for place in holding:
            q[place] = sum(counts[member] for member in members) / len(holding)
    total_p, total_q = sum(p), sum(q)
    found = 0.0
    for one, other in zip(p, q, strict=True):
        if one > 0:
            share = max(other / max(total_q, 1.0), 1e-12)
            found += one / total_p * math.log(one / total_p / share)
    return found


@settings(max_examples=25)
@given(
    st.lists(st.integers(0, 50), min_size=200, max_size=300),
    st.integers(128, 200),
)
def test_the_divergence_is_that_of_the_description(counts: list[int], bins: int) -> None:
    padded = np.zeros(BINS, np.int64)
    padded[: len(counts)] = counts
    if padded[:bins].sum() == 0:
        padded[0] = 1

    fast = entropy.divergence(padded, bins)

    assert fast == pytest.approx(slow_divergence(padded.tolist(), bins), rel=1e-9, abs=1e-12)


@SAMPLE
def test_entropy_has_the_smallest_divergence_of_its_candidates(name: str) -> None:
    _, histogram = seen(name)
    used = int(histogram.counts.nonzero()[0][-1]) + 1
    candidates = [*range(128, used + 1, BINS // 256), used]
    smallest = min(entropy.divergence(histogram.counts, bins) for bins in candidates)

    amax = entropy.amax(histogram, INT8)

    kept = min(round(amax / (2.0**histogram.exponent / BINS)), used)
    if amax == histogram.largest:
        kept = used
    assert entropy.divergence(histogram.counts, kept) == pytest.approx(smallest)


def test_entropy_clips_outliers_for_int8_and_nothing_for_fp8() -> None:
    _, histogram = seen("outliers")

    assert entropy.amax(histogram, INT8) < 100
    assert entropy.amax(histogram, FP8) == 400
