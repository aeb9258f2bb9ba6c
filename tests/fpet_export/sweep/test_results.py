"""Which points no other beats, and what the table says of those that are not compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fpet_export.sweep import results
from fpet_export.sweep.grid import Point, points_of
from fpet_export.sweep.request import SweepRequest
from fpet_export.sweep.results import Result
from fpet_export.sweep.store import Failure

FAILURE = Failure(name="ParityError", exit_code=7, what="it drifts", where="onnx", fix="report it")


def points(count: int, **grid: Any) -> tuple[Point, ...]:
    merges = tuple(f"fpet@{block}" for block in range(count))
    request = SweepRequest(
        runs=("a=random:test_vit:0",), out=Path("out"), **{"merges": merges, **grid}
    )
    return points_of(request)


def result(point: Point, p50_ms: float, accuracy: float | None = None, **more: Any) -> Result:
    latency = {"p50_ns": int(p50_ms * 1e6), "valid": True}
    known = {"macs": 10**9, "agreement": 0.9, "accuracy": accuracy, "latency": latency}
    return Result(point=point, **{**known, **more})


def front_of(found: list[Result]) -> list[int]:
    front = results.front_of(found)
    return [number for number, one in enumerate(found) if one.point.name in front]


@pytest.mark.parametrize(
    ("of_each", "front"),
    [
        ([(1, 0.9), (2, 0.95), (3, 0.94)], [0, 1]),
        ([(1, 0.9), (1, 0.8), (2, 0.9)], [0]),
        ([(1, 0.9), (1, 0.9)], [0, 1]),
        ([(3, 0.5)], [0]),
    ],
)
def test_the_front_is_what_no_other_beats(
    of_each: list[tuple[float, float]], front: list[int]
) -> None:
    found = [result(point, *of) for point, of in zip(points(len(of_each)), of_each, strict=True)]

    assert front_of(found) == front


def test_only_what_can_be_compared_is() -> None:
    first, second, third = points(3)
    noisy = {"latency": {"p50_ns": 1, "valid": False}}
    found = [
        result(first, 5, 0.9),
        result(second, 1, 0.9, failure=FAILURE, failed_in="engine/x"),
        result(third, 1, 0.9, **noisy),
    ]

    assert front_of(found) == [0]
    rows = results.as_rows(found, results.front_of(found))
    assert [row[-1] for row in rows] == ["best", "*", "failed", ""]
    assert rows[3][-2] == "0.00?"
    notes = " ".join(results.notes_on(found))
    assert "noise has spoiled" in notes
    assert "2 failed in engine/x: it drifts (report it)" in notes


def test_batches_and_runs_are_not_compared_with_each_other() -> None:
    small, large = points(0, merges=("none",), batches=(1, 8))

    assert front_of([result(small, 1, 0.9), result(large, 6, 0.8)]) == [0, 1]


def test_without_measurements_multiply_adds_are_compared() -> None:
    first, second = points(2, bench=False)
    found = [
        result(first, 0, macs=2 * 10**9, latency=None),
        result(second, 0, macs=10**9, latency=None),
    ]

    assert front_of(found) == [1]
    assert "multiply-adds" in results.notes_on(found)[-1]


def test_without_classes_vectors_are_compared() -> None:
    (point,) = points(1)
    found = result(point, 1, agreement=None, cosine=0.98)

    assert (found.kind, found.answers) == ("cosine", 0.98)
    assert results.as_rows([found], set())[0] == (
        "", "merge", "precision", "target", "GMAC", "cosine", "p50 ms",
    )  # fmt: skip
