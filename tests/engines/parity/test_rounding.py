"""Gates by what rounding explains: the median image, images without a flip, warnings."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from engines.parity.comparison import compare_stage
from engines.parity.gates import gates_of
from engines.parity.model_outputs import ModelOutputs
from engines.parity.rounding import rounding_in
from engines.parity.rows import ParityTable, StageParity, row_from_json
from engines.parity.table import remarks

IMAGES, CLASSES = 9, 4
LOGITS = np.random.default_rng(0).normal(size=(IMAGES, CLASSES)) * 3 + np.eye(CLASSES)[0] * 20
MATCH = np.zeros((IMAGES, 2), np.int64)
MARGIN = np.ones((IMAGES, 2))


def row(
    errors: list[float], *, rounding: float | None, shows_match: bool = True, **actual: Any
) -> StageParity:
    """Compare logits whose images are off by `errors` of the logits' size."""
    size = float(np.sqrt(np.mean(LOGITS**2)))
    signs = np.array([1.0, -1.0, 1.0, -1.0])
    logits = LOGITS + np.array(errors)[:, None] * size * signs
    shown = {"match": MATCH, **actual} if shows_match else {}
    return compare_stage(
        "typed",
        ModelOutputs(logits=logits, **shown),
        ModelOutputs(logits=LOGITS, match=MATCH, margin=MARGIN),
        gates=gates_of("fp16", rounding=rounding),
    )


@pytest.mark.parametrize(("error", "passes"), [(0.012, True), (0.013, False)])
def test_the_median_image_decides(error: float, passes: bool) -> None:
    found = row([error] * IMAGES, rounding=0.01)

    assert found.passed is passes and found.rounding == 0.01
    assert passes or "rounding explains 0.01" in found.failures[0]


def test_an_engine_rounds_on_top_of_its_graph() -> None:
    assert row([0.024] * IMAGES, rounding=0.01, shows_match=False).passed
    assert not row([0.026] * IMAGES, rounding=0.01, shows_match=False).passed


def test_one_image_that_merges_as_the_reference_is_not_far_off() -> None:
    errors = [0.001] * (IMAGES - 1)

    assert row([*errors, 0.079], rounding=0.01).passed
    assert not row([*errors, 0.081], rounding=0.01).passed


def test_an_explained_flip_may_move_its_image() -> None:
    match = MATCH.copy()
    match[-1, 0] = 1
    right = np.zeros(MATCH.shape, dtype=bool)  # it follows from the keys as they were rounded
    errors = [0.001] * (IMAGES - 1)

    assert row([*errors, 0.2], rounding=0.01, match=match, unsupported=right).passed
    assert not row([*errors, 0.2], rounding=0.01, match=match).passed


def test_no_rounding_excuses_a_tenth_of_the_logits() -> None:
    assert row([0.09] * IMAGES, rounding=0.09).passed
    assert not row([0.11] * IMAGES, rounding=0.5).passed


def test_noise_that_rounding_explains_is_a_warning() -> None:
    found = row([0.011] * IMAGES, rounding=0.01)  # 39.2 dB

    assert found.passed and len(found.warnings) == 1
    assert "39.2 dB is below 40 dB" in found.warnings[0] and "0 images" in found.warnings[0]
    assert row([0.009] * IMAGES, rounding=0.01).warnings == ()
    assert not row([0.011] * IMAGES, rounding=0.005).passed


def test_warnings_are_said_and_stored() -> None:
    found = row([0.011] * IMAGES, rounding=0.01)
    table = ParityTable(images="9 images", reference="itself", rows=(found,))
    document = json.loads(json.dumps(table.to_json()))

    assert any(found.warnings[0] in remark for remark in remarks(table))
    assert row_from_json(document["rows"][0]) == found
    assert rounding_in(document) == 0.01
    assert rounding_in({"task": document}) == 0.01
    assert rounding_in(None) is rounding_in({"rows": [{"stage": "onnx"}]}) is None


def test_what_was_not_measured_has_fixed_limits() -> None:
    assert gates_of("int8", rounding=0.01).rounding is None
    assert row([0.013] * IMAGES, rounding=None).passed
    assert not row([0.035] * IMAGES, rounding=None).passed  # 29.1 dB
