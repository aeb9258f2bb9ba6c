"""Parity of features and tokens, which name no classes: differences, and the smallest cosine."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from engines.errors import ParityError
from engines.manifest import Head
from engines.parity.comparison import compare_stage, smallest_cosine
from engines.parity.gates import Gates
from engines.parity.model_outputs import ModelOutputs
from engines.parity.rows import ParityTable, row_from_json
from engines.parity.table import table_rows

FEATURES = np.array([[3.0, 4.0], [1.0, 0.0]])


def outputs(values: np.ndarray, head: Head = "features") -> ModelOutputs:
    return ModelOutputs(logits=values, head=head)


def test_the_smallest_cosine_is_that_of_the_worst_vector() -> None:
    turned = np.array([[3.0, 4.0], [3.0, 4.0]])  # 53 degrees off in the second
    assert smallest_cosine(turned, FEATURES) == pytest.approx(0.6)
    assert smallest_cosine(2 * FEATURES, FEATURES) == pytest.approx(1)
    assert smallest_cosine(np.zeros((1, 2)), np.zeros((1, 2))) == 1
    assert smallest_cosine(np.zeros((1, 2)), FEATURES[:1]) == 0
    assert smallest_cosine(np.full((1, 2), np.nan), FEATURES[:1]) == 0


def test_equal_features_pass_without_classes() -> None:
    row = compare_stage("onnx", outputs(FEATURES + 1e-6), outputs(FEATURES), gates=Gates())
    assert row.passed and row.agreement is None and row.accuracy is None
    assert row.cosine == pytest.approx(1, abs=1e-9)
    assert row.likeness == "same vectors up to a cosine of 1.000000 on 2 images"


def test_features_of_another_length_or_direction_fail() -> None:
    for wrong in (FEATURES * 1.001, FEATURES[:, ::-1], -FEATURES):
        assert not compare_stage("onnx", outputs(wrong), outputs(FEATURES), gates=Gates()).passed


def test_labels_mean_nothing_to_features() -> None:
    row = compare_stage(
        "onnx", outputs(FEATURES), outputs(FEATURES), gates=Gates(), labels=np.array([0, 1])
    )
    assert row.accuracy is None


def test_tokens_are_compared_patch_by_patch() -> None:
    tokens = np.random.default_rng(0).normal(size=(3, 5, 4))
    other = tokens.copy()
    other[2, 4] = -other[2, 4]
    row = compare_stage("onnx", outputs(other, "tokens"), outputs(tokens, "tokens"), gates=Gates())
    assert row.cosine == pytest.approx(-1) and not row.passed
    assert compare_stage(
        "onnx", outputs(tokens, "tokens"), outputs(tokens, "tokens"), gates=Gates()
    ).passed


def test_images_whose_match_is_not_certain_are_not_judged() -> None:
    margin = np.array([[1.0], [1e-9]])
    reference = dataclasses.replace(outputs(FEATURES), margin=margin)
    wrong = FEATURES.copy()
    wrong[1] = -wrong[1]
    row = compare_stage("engine", outputs(wrong), reference, gates=Gates())
    assert row.passed and row.judged == 1 and row.cosine == pytest.approx(1)


def test_rounding_and_noise_are_judged_as_of_logits() -> None:
    generator = np.random.default_rng(0)
    tokens = generator.normal(size=(4, 9, 8))
    noisy = tokens + 1e-3 * generator.normal(size=tokens.shape)
    gates = Gates(relative=2e-2, rounding=1e-3, warn_db=80.0)
    row = compare_stage("fp16", outputs(noisy, "tokens"), outputs(tokens, "tokens"), gates=gates)
    assert row.passed and "smallest cosine" in row.warnings[0]
    gates = dataclasses.replace(gates, rounding=1e-4)
    row = compare_stage("fp16", outputs(noisy, "tokens"), outputs(tokens, "tokens"), gates=gates)
    assert any("the median image is off" in failure for failure in row.failures)


def test_other_heads_are_not_compared() -> None:
    with pytest.raises(ParityError, match="onnx gives logits, the reference features"):
        compare_stage("onnx", outputs(FEATURES, "logits"), outputs(FEATURES), gates=Gates())


def test_the_table_speaks_of_outputs() -> None:
    row = compare_stage("onnx", outputs(FEATURES), outputs(FEATURES), gates=Gates())
    heading, cells = table_rows([row])
    assert "largest output difference" in heading and "smallest cosine" in heading
    assert "agreement" not in heading and "1.000000" in cells
    table = ParityTable(images="2 images", reference="run", rows=(row,))
    assert row_from_json(table.to_json()["rows"][0]) == row
