"""Histograms: the same counts whatever the order and the split; JSON that is whole or refused."""

from __future__ import annotations

import base64
import json
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from calibration.histogram import BINS, Histogram, merged, of_values

TINY, DENORMAL, HUGE = 2.0**-126, 2.0**-149, float(np.finfo(np.float32).max)
SPECIAL = [0.0, -0.0, DENORMAL, -TINY, 2.0**-120, 0.5, -1.0, 1.0, 65504.0, 2.0**127, -HUGE]
FLOATS = st.one_of(
    st.floats(width=32, allow_nan=False, allow_infinity=False),
    st.floats(-8, 8, width=32),
    st.sampled_from(SPECIAL),
)
ARRAYS = npst.arrays(np.float32, st.integers(1, 60), elements=FLOATS)


def counted_one_by_one(values: np.ndarray) -> dict[int, int]:
    """Count in exact float64 arithmetic, value by value."""
    largest = max(abs(float(value)) for value in values)
    exponent = -114
    while 2.0**exponent <= largest:
        exponent += 1
    counts: dict[int, int] = {}
    for value in values:
        place = int(abs(float(value)) * (BINS / 2.0**exponent))
        counts[place] = counts.get(place, 0) + 1
    return counts


@given(ARRAYS)
def test_every_value_is_in_the_bin_that_holds_it(values: np.ndarray) -> None:
    found = of_values(values)

    filled = {int(place): int(found.counts[place]) for place in found.counts.nonzero()[0]}
    assert filled == counted_one_by_one(values)
    assert found.largest == max(abs(float(value)) for value in values)
    assert found.total == len(values)


@given(ARRAYS, st.randoms(use_true_random=False))
def test_neither_order_nor_sign_nor_shape_matter(values: np.ndarray, random: Any) -> None:
    shuffled = list(values)
    random.shuffle(shuffled)

    assert of_values(np.array(shuffled, np.float32)) == of_values(values)
    assert of_values(-values[None, :, None]) == of_values(values)


@given(st.lists(ARRAYS, min_size=2, max_size=4))
def test_parts_merge_to_what_all_at_once_gives(parts: list[np.ndarray]) -> None:
    whole = of_values(np.concatenate(parts))
    forward = of_values(parts[0])
    for part in parts[1:]:
        forward = merged(forward, of_values(part))
    backward = of_values(parts[-1])
    for part in parts[-2::-1]:
        backward = merged(of_values(part), backward)

    assert forward == whole
    assert backward == whole


@given(ARRAYS, ARRAYS)
def test_merging_is_commutative(first: np.ndarray, second: np.ndarray) -> None:
    a, b = of_values(first), of_values(second)

    assert merged(a, b) == merged(b, a)


def test_what_differs_is_not_equal() -> None:
    """The negative control of all comparisons above."""
    found = of_values(np.array([1.0, 2.0], np.float32))

    assert found != of_values(np.array([1.0, 1.0, 2.0], np.float32))
    assert found != of_values(np.array([1.0, 2.1], np.float32))
    assert found != of_values(np.array([1.1, 2.0], np.float32))
    assert found != of_values(np.array([1.0, 4.0], np.float32))


@pytest.mark.parametrize("exponent", [-149, -126, -114, -20, 0, 1, 10, 127])
def test_a_power_of_two_opens_the_upper_half(exponent: int) -> None:
    found = of_values(np.array([2.0**exponent], np.float32))

    (place,) = found.counts.nonzero()[0]
    assert found.edges[place] <= 2.0**exponent < found.edges[place + 1]
    if exponent >= -114:
        assert place == BINS // 2
        assert found.exponent == exponent + 1


def test_zeros_alone_are_counted() -> None:
    found = of_values(np.zeros((3, 4), np.float32))

    assert (found.total, found.counts[0], found.largest) == (12, 12, 0.0)
    wider = merged(found, of_values(np.array([100.0], np.float32)))
    assert wider == of_values(np.array([0.0] * 12 + [100.0], np.float32))


def test_nothing_is_counted_as_nothing() -> None:
    nothing = of_values(np.zeros(0, np.float32))

    assert nothing.total == 0
    assert merged(nothing, of_values(np.ones(3, np.float32))) == of_values(np.ones(3, np.float32))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        of_values(np.array([1.0, value, 0.0], np.float32))


def test_edges_and_centres_belong_to_the_counts() -> None:
    found = of_values(np.array([0.75, 3.0], np.float32))

    assert found.edges[0] == 0.0
    assert found.edges[-1] == 4.0
    assert np.allclose(found.centres, (found.edges[1:] + found.edges[:-1]) / 2)


# JSON


@given(ARRAYS)
def test_json_brings_the_same_back(values: np.ndarray) -> None:
    found = of_values(values)

    assert Histogram.from_json(json.loads(json.dumps(found.to_json()))) == found


def packed(counts: np.ndarray) -> str:
    return base64.b64encode(zlib.compress(counts.astype("<i8").tobytes())).decode()


ONE = of_values(np.array([0.1, 0.6, 0.99], np.float32))
MOVED = np.roll(ONE.counts, 1)


@pytest.mark.parametrize(
    "changes",
    [
        {"counts": ""},
        {"counts": "%%%"},
        {"counts": base64.b64encode(b"no zlib").decode()},
        {"counts": ONE.to_json()["counts"][:40]},
        {"counts": packed(ONE.counts[:-1])},
        {"counts": packed(np.append(ONE.counts, 0))},
        {"counts": packed(-ONE.counts)},
        {"counts": packed(MOVED)},
        {"exponent": 1},
        {"exponent": float("inf")},
        {"exponent": "0"},
        {"exponent": None},
        {"largest": float("nan")},
        {"largest": float("inf")},
        {"largest": -0.99},
        {"largest": 1e300},
        {"largest": "much"},
        {"largest": 0.5},
        {"largest": 0.0},
    ],
)
def test_damaged_json_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        Histogram.from_json(ONE.to_json() | changes)


def test_a_bomb_is_not_expanded() -> None:
    bomb = base64.b64encode(zlib.compress(bytes(10**8))).decode()

    with pytest.raises(ValueError, match="wanted"):
        Histogram.from_json(ONE.to_json() | {"counts": bomb})


def test_the_tail_is_the_largest_over_what_nearly_all_stay_below() -> None:
    ordinary = np.linspace(0, 1, 10_000, dtype=np.float32)
    with_one_far = np.append(ordinary, np.float32(13.5))

    assert of_values(ordinary).tail == pytest.approx(1, abs=0.01)
    assert of_values(with_one_far).tail == pytest.approx(13.5, rel=0.01)
    assert of_values(np.zeros(4, np.float32)).tail == 0
