"""Inputs are assembled as their pieces say; what a task does not have is an exact zero."""

from __future__ import annotations

import numpy as np
import pytest

from engines.errors import InputError
from engines.tasks.inputs import Piece, TaskInput, assemble

GENERATOR = np.random.default_rng(0)
WEIGHTS = {
    "down": GENERATOR.normal(size=(2, 5)).astype(np.float32),
    "up": GENERATOR.normal(size=(5, 2)).astype(np.float32),
    "bias": GENERATOR.normal(size=3).astype(np.float32),
}


def made(wanted: TaskInput, **changes: object) -> np.ndarray:
    request: dict[str, object] = {"parts": ("lora", "head"), "scale": 0.5}
    return assemble(wanted, WEIGHTS.__getitem__, **(request | changes))  # type: ignore[arg-type]


def piece(left: str, **fields: object) -> Piece:
    return Piece(part="lora", left=left, **fields)  # type: ignore[arg-type]


def of(shape: tuple[int | str, ...], *pieces: Piece, **fields: object) -> TaskInput:
    request: dict[str, object] = {"name": "x", "dtype": "float32"}
    return TaskInput(shape=shape, pieces=pieces, **(request | fields))  # type: ignore[arg-type]


def test_pieces_side_by_side() -> None:
    found = made(of((5, "rank"), piece("down"), piece("down", factor=2.0), stack="columns"))
    np.testing.assert_array_equal(found, np.hstack([WEIGHTS["down"].T, 2 * WEIGHTS["down"].T]))


def test_pieces_under_each_other_at_their_own_columns() -> None:
    wanted = of(("rank", 10), piece("up"), piece("up", column=5, scaled=True), stack="rows")
    found = made(wanted)
    expected = np.zeros((4, 10), np.float32)
    expected[:2, :5], expected[2:, 5:] = WEIGHTS["up"].T, 0.5 * WEIGHTS["up"].T
    np.testing.assert_array_equal(found, expected)


def test_an_update_is_folded_into_the_backbone_s_weight() -> None:
    base = {"w": GENERATOR.normal(size=(5, 10)).astype(np.float32)}
    wanted = of((5, 10), piece("up", right="down", column=5, scaled=True), base="w")
    update = np.zeros((5, 5))
    for row in range(5):
        for column in range(5):
            for inner in range(2):
                update[row, column] += float(WEIGHTS["up"][row, inner]) * float(
                    WEIGHTS["down"][inner, column]
                )
    expected = base["w"].astype(np.float64)
    expected[:, 5:] += 0.5 * update.T
    np.testing.assert_allclose(made(wanted, base=base), expected, rtol=1e-6)
    assert not np.allclose(made(wanted, base=base), base["w"])
    np.testing.assert_array_equal(made(wanted, base=base, parts=()), base["w"])


def test_what_a_task_does_not_have_is_one_zero_wide() -> None:
    found = made(of((5, "rank"), Piece(part="other", left="absent"), stack="columns"))
    np.testing.assert_array_equal(found, np.zeros((5, 1), np.float32))
    assert made(of((5, 4), Piece(part="other", left="absent"))).shape == (5, 4)


def test_a_larger_input_is_filled_up_with_zeros() -> None:
    found = made(of((5, 4), piece("down")))
    np.testing.assert_array_equal(found[:, :2], WEIGHTS["down"].T)
    assert not found[:, 2:].any()


def test_vectors() -> None:
    wanted = of(("classes",), piece("bias", transposed=False))
    np.testing.assert_array_equal(made(wanted), WEIGHTS["bias"])
    assert made(of((4,), piece("bias", transposed=False))).tolist()[3] == 0


def test_pieces_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match=r"brings \(5, 2\) at \(0, 0\) for 'x'"):
        made(of((5, 1), piece("down")))


def test_a_value_that_half_precision_cannot_hold_is_refused() -> None:
    wanted = of((5, 2), piece("down", factor=1e6), dtype="float16")
    with pytest.raises(InputError, match="which float16 cannot"):
        made(wanted)
