"""The parity table: what counts as a flip, which gates fail, and what JSON holds."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.errors import ParityError
from engines.parity import comparison
from engines.parity import gates as gates_module
from engines.parity import rows as parity
from engines.parity.comparison import compare_stage
from engines.parity.gates import Gates
from engines.parity.model_outputs import ModelOutputs
from engines.parity.rows import ParityTable, StageParity, row_from_json

LOGITS = np.array([[1.0, -2.0, 0.5], [0.0, 3.0, -4.0]])
MATCH = np.array([[0, 1], [2, 0]])
MARGIN = np.array([[0.5, 1e-7], [0.2, 0.3]])
SIZE = np.array([[1.0, 2.0, 2.0], [1.0, 3.0, 1.0]])


def reference(**changes: Any) -> ModelOutputs:
    fields = {"logits": LOGITS, "match": MATCH, "margin": MARGIN, "size": SIZE}
    return ModelOutputs(**(fields | changes))


def stage(actual: ModelOutputs, *, patches: int | None = 5, **gates: Any) -> StageParity:
    return compare_stage("onnx", actual, reference(), gates=Gates(**gates), patches=patches)


def test_the_same_evidence_passes_with_an_infinite_ratio() -> None:
    row = stage(reference())

    assert row.passed
    assert row.largest_logit_difference == row.relative == 0
    assert row.sqnr_db == math.inf
    assert row.agreement == row.same_partner == 1
    assert (row.unexplained_flips, row.explained_flips) == (0, 0)
    assert (row.tokens_kept, row.tokens_expected) == (5, 5)


def test_differences_are_measured_against_the_largest_reference_logit() -> None:
    row = stage(ModelOutputs(logits=LOGITS + 0.004), relative=2e-3)

    assert row.largest_logit_difference == pytest.approx(0.004)
    assert row.relative == pytest.approx(0.001)
    assert row.passed
    assert row.same_partner is None
    assert not stage(ModelOutputs(logits=LOGITS + 0.004), relative=5e-4).passed


def test_a_flip_within_the_margin_is_explained_and_its_image_is_not_judged() -> None:
    match = np.array([[0, 0], [2, 0]])
    logits = LOGITS + np.array([[5.0], [0.0]])

    row = stage(reference(match=match, logits=logits))

    assert (row.unexplained_flips, row.explained_flips) == (0, 1)
    assert row.same_partner == 0.75
    assert row.largest_logit_difference == 0
    assert row.passed


def test_a_flip_beyond_the_margin_fails() -> None:
    row = stage(reference(match=np.array([[1, 1], [2, 0]])))

    assert row.unexplained_flips == 1
    assert row.failures == ("1 unexplained flip of the match",)


def test_a_dropped_token_is_a_flip() -> None:
    row = stage(reference(match=np.array([[-1, 1], [2, 0]])))

    assert row.unexplained_flips == 1


def test_a_wider_margin_explains_more() -> None:
    actual = np.array([[1, 1], [2, 0]])

    assert comparison.unexplained_flips(actual, MATCH, MARGIN, eps=0.4) == 1
    assert comparison.unexplained_flips(actual, MATCH, MARGIN, eps=0.5) == 0


def test_when_every_image_has_an_explained_flip_all_are_judged() -> None:
    margin = np.full_like(MARGIN, 1e-9)
    row = compare_stage(
        "onnx",
        ModelOutputs(logits=LOGITS + 100, match=MATCH + 1),
        reference(margin=margin),
        gates=Gates(),
    )

    assert not row.passed
    assert "relative difference" in row.failures[0]


def test_the_last_block_that_hardly_any_image_reaches_is_said() -> None:
    """Images whose first block merged otherwise say nothing of the second one."""
    images = 4
    logits, match = np.tile(LOGITS[:1], (images, 1)), np.zeros((images, 2), np.int64)
    margin = np.full((images, 2), [1e-7, 0.3])
    expected = ModelOutputs(logits=logits, match=match, margin=margin, sources=(1, 1))
    early = match.copy()
    early[:3, 0] = 1

    row = compare_stage("onnx", ModelOutputs(logits=logits, match=early), expected, gates=Gates())
    whole = compare_stage("onnx", ModelOutputs(logits=logits, match=match), expected, gates=Gates())

    assert row.passed and row.explained_flips == 3
    assert any("last block that merges was compared on 1 of 4 images" in w for w in row.warnings)
    assert whole.warnings == ()


@pytest.mark.parametrize(("flipped", "said"), [(0, ""), (1, ""), (3, "1 of 4 images"), (4, "none")])
def test_outputs_that_hardly_any_image_shows_are_said(flipped: int, said: str) -> None:
    images = 4
    logits, match = np.tile(LOGITS[:1], (images, 1)), np.zeros((images, 2), np.int64)
    other = match.copy()
    other[:flipped, 0] = 1
    follows = np.zeros(match.shape, dtype=bool)

    row = compare_stage(
        "fp16",
        ModelOutputs(logits=logits, match=other, unsupported=follows),
        ModelOutputs(logits=logits, match=match),
        gates=Gates(rounding=0.01),
    )

    assert row.passed
    assert (row.unexplained_flips, row.explained_flips) == (0, flipped)
    assert bool(row.warnings) == bool(said)
    assert all(said in warning for warning in row.warnings)


def test_a_decision_that_does_not_follow_fails_wherever_it_stands() -> None:
    """In the second block of an image whose first one merged otherwise than the reference."""
    other, wrong = np.array([[1, 1], [2, 0]]), np.array([[False, True], [False, False]])
    actual = reference(match=other, unsupported=wrong, sources=(1, 1))

    row = stage(actual, relative=None, agreement=None)

    assert (row.unexplained_flips, row.explained_flips) == (1, 1)
    assert not row.passed


def test_a_hidden_match_is_judged_on_images_without_near_ties() -> None:
    logits = LOGITS.copy()
    logits[0] += 50  # image 0 has a near-tie, so it says nothing

    assert stage(ModelOutputs(logits=logits)).passed
    logits[1] += 1
    assert not stage(ModelOutputs(logits=logits)).passed


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_logits_that_are_not_finite_fail(value: float) -> None:
    logits = LOGITS.copy()
    logits[1, 2] = value

    row = stage(ModelOutputs(logits=logits), relative=None, agreement=None)

    assert not row.passed
    assert "not finite" in row.failures[0]
    assert row.sqnr_db == -math.inf


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_reference_that_is_not_finite_proves_nothing(value: float) -> None:
    with pytest.raises(ParityError, match="not finite") as caught:
        compare_stage("onnx", reference(), reference(logits=LOGITS + value), gates=Gates())
    assert caught.value.exit_code == 7


def test_no_images_prove_nothing() -> None:
    empty = ModelOutputs(logits=np.zeros((0, 3)))

    with pytest.raises(ParityError, match="no images"):
        compare_stage("onnx", empty, empty, gates=Gates())


@pytest.mark.parametrize(
    "actual",
    [
        ModelOutputs(logits=LOGITS[:1]),
        ModelOutputs(logits=LOGITS[:, :2]),
        reference(match=MATCH[:, :1]),
    ],
    ids=["images", "classes", "tokens"],
)
def test_other_shapes_are_refused(actual: ModelOutputs) -> None:
    with pytest.raises(ParityError, match="reference"):
        stage(actual)


@pytest.mark.parametrize("share", [4.0, 6.0, math.nan])
def test_the_token_audit_fails_in_both_directions(share: float) -> None:
    size = SIZE.copy()
    size[1, 1] += share - 5

    row = stage(reference(size=size))

    assert not row.passed
    assert "token audit" in row.failures[0]
    assert "wanted 5" in row.failures[0]


def test_without_a_token_count_the_audit_only_reports() -> None:
    row = stage(reference(size=SIZE + 1), patches=None)

    assert row.passed
    assert row.tokens_kept == 8


def test_another_class_of_a_clear_image_fails() -> None:
    other = LOGITS.copy()
    other[0, 1] = 2.0

    row = stage(reference(logits=other), relative=None)

    assert row.agreement == 0.5
    assert row.failures == ("agreement 50.00%, limit 100.00%",)


def test_another_class_of_an_undecided_image_is_right_too() -> None:
    close = np.array([[1.0, 1.0 + 1e-6, -3.0]])
    row = compare_stage(
        "onnx",
        ModelOutputs(logits=np.array([[1.0 + 1e-6, 1.0, -3.0]])),
        ModelOutputs(logits=close),
        gates=Gates(),
    )

    assert row.agreement == 0
    assert row.passed


def test_the_noise_gate_is_in_decibel() -> None:
    noisy = ModelOutputs(logits=LOGITS * 1.01)

    assert stage(noisy, relative=None).sqnr_db == pytest.approx(40)
    assert stage(noisy, relative=None, sqnr_db=39.0).passed
    assert not stage(noisy, relative=None, sqnr_db=41.0).passed


def test_accuracy_is_counted_where_labels_are() -> None:
    row = compare_stage("onnx", reference(), reference(), gates=Gates(), labels=np.array([0, 2]))

    assert row.accuracy == 0.5
    assert stage(reference()).accuracy is None


def table(*rows: StageParity) -> ParityTable:
    return ParityTable(images="2 images", reference="float64", rows=rows, tied_images=0)


def test_the_first_drifting_stage_is_named() -> None:
    good, bad = stage(reference()), stage(ModelOutputs(logits=LOGITS + 1))

    with pytest.raises(ParityError, match="onnx drifts") as caught:
        parity.judge(table(good, bad), fix="look there")

    assert caught.value.exit_code == 7
    parity.judge(table(good), fix="look there")


def test_json_has_no_infinity() -> None:
    nan = LOGITS.copy()
    nan[0, 0] = math.nan
    document = table(stage(reference()), stage(ModelOutputs(logits=nan))).to_json()

    text = json.dumps(document, allow_nan=False)

    rows = json.loads(text)["rows"]
    assert rows[0]["sqnr_db"] is None
    assert rows[1]["largest_logit_difference"] is None
    assert rows[1]["failures"]


@pytest.mark.parametrize(
    ("margin", "dropped"), [(0.0, True), (1.7e-7, True), (2.4e-7, False), (0.1, False)]
)
def test_the_published_rule_drops_what_float32_cannot_tell_apart(
    margin: float, dropped: bool
) -> None:
    assert comparison.dropped_by_reference_rule(np.array([[margin]])).item() is dropped


@given(
    st.lists(st.floats(-50, 50), min_size=3, max_size=3),
    st.floats(1e-6, 1e-2),
)
def test_a_difference_of_any_sign_counts_the_same(values: list[float], shift: float) -> None:
    base = ModelOutputs(logits=np.array([values]) + 60)
    up, down = (
        compare_stage("x", ModelOutputs(logits=base.logits + s), base, gates=Gates())
        for s in (shift, -shift)
    )

    assert up.largest_logit_difference == pytest.approx(down.largest_logit_difference)
    assert up.sqnr_db == pytest.approx(down.sqnr_db)


def apart(noise: float, *, seed: int = 0, images: int = 8) -> tuple[ModelOutputs, ModelOutputs]:
    """Logits, and the same with noise of a relative size in each."""
    generator = np.random.default_rng(seed)
    logits = generator.standard_normal((images, 10))
    other = logits + noise * generator.standard_normal(logits.shape)
    return ModelOutputs(logits=logits), ModelOutputs(logits=other)


def control_of(noise: float, **settings: int) -> StageParity:
    expected, other = apart(noise, **settings)
    return compare_stage("control", other, expected, gates=gates_module.NO_GATES)


@given(noise=st.floats(1e-3, 0.3), seed=st.integers(0, 99), share=st.floats(0, 1))
def test_what_is_no_further_than_the_control_passes(noise: float, seed: int, share: float) -> None:
    expected, other = apart(noise, seed=seed)
    gates = gates_module.gates_by_control(control_of(noise, seed=seed))
    between = expected.logits + share * (other.logits - expected.logits)

    assert compare_stage("engine", ModelOutputs(logits=between), expected, gates=gates).passed


@given(noise=st.floats(1e-3, 0.1), seed=st.integers(0, 99), factor=st.floats(1, 10))
def test_what_is_further_than_the_factor_fails(noise: float, seed: int, factor: float) -> None:
    expected, other = apart(noise, seed=seed)
    gates = gates_module.gates_by_control(control_of(noise, seed=seed), factor=factor)
    beyond = expected.logits + 1.01 * factor * (other.logits - expected.logits)

    failures = compare_stage("engine", ModelOutputs(logits=beyond), expected, gates=gates).failures

    assert any(words.startswith("signal to noise (SQNR)") for words in failures)
    assert any(words.startswith("relative") for words in failures)


@pytest.mark.parametrize("noise", [0.0, 1e-7, math.nan])
def test_a_control_that_shows_nothing_leaves_the_gates_of_float32(noise: float) -> None:
    assert gates_module.gates_by_control(control_of(noise)) == Gates()


def test_a_control_that_is_not_finite_is_shown_as_failed() -> None:
    assert control_of(math.nan).failures == ("logits that are not finite",)


@given(noise=st.floats(0, 1), seed=st.integers(0, 99))
def test_a_control_never_tightens_the_gates(noise: float, seed: int) -> None:
    gates = gates_module.gates_by_control(control_of(noise, seed=seed))

    assert gates.relative is not None
    assert gates.relative >= 1e-4


def test_a_row_comes_back_from_json() -> None:
    """With its infinities: equal logits have an infinite ratio."""
    equal = stage(reference())
    off = stage(ModelOutputs(logits=LOGITS + 0.1))

    found = [row_from_json(row) for row in table(equal, off).to_json()["rows"]]

    assert found == [equal, off]
    assert found[0].sqnr_db == math.inf
    assert found[1].failures
    with pytest.raises(TypeError):
        row_from_json({"stage": "x"})
