"""Comparing typed graphs with their float32 graph: bounds that hold, flips that are explained."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calibration.casts import cast_graph
from calibration.evaluator import (
    GraphEvaluator,
    evaluator_for,
)
from engines.manifest import read_manifest
from engines.onnx_graph.files import Graph, read_graph
from engines.parity.comparison import ReferenceOutputs
from engines.parity.gates import gates_of
from engines.parity.model_outputs import ModelOutputs
from engines.parity.outputs import tokens_of
from fpet_export.model import reference
from tests.calibration.exports import Exports, feed_of, images_of, run
from tests.fpet_export.tiny import adapted, checkpoint_of, spec_of

IMAGES = images_of(12)


@pytest.fixture(scope="module")
def evaluator(merged: Path) -> GraphEvaluator:
    return evaluator_for(merged, read_manifest(merged), IMAGES)


def half(path: Path, precision: Any = "fp16") -> Graph:
    graph = read_graph(path)
    cast_graph(graph, precision, io="fp32")
    return graph


def test_margins_are_those_of_the_float64_model(evaluator: GraphEvaluator, merged: Path) -> None:
    preprocessing = read_manifest(merged).preprocessing
    assert preprocessing is not None
    spec = spec_of(depth=3)
    pixels = (IMAGES.pixels.transpose(0, 3, 1, 2) / np.float32(255)).astype(np.float32)
    exact = reference.run(
        adapted(spec, checkpoint_of(spec)), pixels, preprocessing.mean, preprocessing.std
    )

    found = evaluator.reference.outputs
    assert found.margin is not None
    assert found.match is not None
    assert exact.margin is not None
    assert np.abs(found.margin - exact.margin).max() < 1e-5
    sure = exact.margin > 1e-5
    assert sure.mean() > 0.9
    assert (found.match == exact.match)[sure].all()
    assert np.abs(found.logits - exact.logits).max() < 1e-4 * np.abs(exact.logits).max()


# Typed graphs


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_passes_its_gates(
    precision: str, evaluator: GraphEvaluator, merged: Path
) -> None:
    counts: list[int] = []
    manifest = read_manifest(merged)

    actual = evaluator.outputs(half(merged, precision), manifest, progress=counts.append)

    row = evaluator.row(precision, actual, precision)
    assert row.failures == ()
    assert 0 < row.relative < gates_of(precision).relative  # type: ignore[operator]
    assert (row.tokens_kept, row.tokens_expected) == (17, 17)
    assert row.unexplained_flips == 0
    assert sum(counts) == len(IMAGES)
    assert actual.unsupported is not None
    assert not actual.unsupported.any()


def test_the_float32_graph_itself_has_no_error(evaluator: GraphEvaluator, merged: Path) -> None:
    actual = evaluator.outputs(read_graph(merged), read_manifest(merged))

    row = evaluator.row("same", actual, "fp16")
    assert row.failures == ()
    assert row.relative < 1e-5
    assert row.same_partner == 1.0
    quality = evaluator.quality(actual)
    assert quality.sqnr_db > 90
    assert quality.agreement == 1.0


def test_a_lost_token_fails_the_audit(evaluator: GraphEvaluator, merged: Path) -> None:
    actual = evaluator.outputs(half(merged), read_manifest(merged))
    assert actual.size is not None
    size = actual.size.copy()
    size[0, 3] -= 1

    row = evaluator.row("lost", dataclasses.replace(actual, size=size), "int8")
    assert any("token audit 16, wanted 17" in failure for failure in row.failures)


def test_logits_that_are_not_finite_fail_and_have_no_ratio(
    evaluator: GraphEvaluator, merged: Path
) -> None:
    actual = evaluator.outputs(half(merged), read_manifest(merged))
    logits = actual.logits.copy()
    logits[0, 0] = np.nan
    broken = dataclasses.replace(actual, logits=logits)

    assert "logits that are not finite" in evaluator.row("broken", broken, "int8").failures
    assert evaluator.quality(broken).sqnr_db == -math.inf


@pytest.mark.parametrize(
    "variant",
    [{"target": "cpu"}, {"merge_block": None}, {"batch": (1, 4)}, {"batch": 4},
     {"input": "uint8-nhwc"}],
    ids=str,
)  # fmt: skip
def test_every_kind_of_graph_can_be_evaluated(variant: dict[str, Any], exports: Exports) -> None:
    path = exports(**variant)
    manifest = read_manifest(path)
    images = images_of(6)
    evaluator = evaluator_for(path, manifest, images)

    row = evaluator.row("fp16", evaluator.outputs(half(path), manifest), "fp16")

    assert row.failures == ()
    (expected,) = run(path, np.concatenate([feed_of(path, images)] * 2))
    assert np.allclose(evaluator.reference.outputs.logits, expected[:6], atol=1e-5)
    if "merge_block" in variant:
        assert evaluator.reference.outputs.margin is None
        assert row.same_partner is None
        assert tokens_of(manifest) is None
    else:
        assert row.tokens_expected == 17


# Fewer images, labels, another reference


def test_fewer_images_are_the_same_ones_everywhere(evaluator: GraphEvaluator) -> None:
    few = evaluator.on_fewer(4)

    chosen = [0, 3, 6, 9]
    assert np.array_equal(few.images.pixels, IMAGES.pixels[chosen])
    assert few.images.labels is not None
    assert IMAGES.labels is not None
    assert np.array_equal(few.images.labels, IMAGES.labels[chosen])
    for part in ("logits", "match", "margin", "size"):
        assert np.array_equal(
            getattr(few.reference.outputs, part),
            getattr(evaluator.reference.outputs, part)[chosen],
        )
    assert evaluator.on_fewer(12) is evaluator
    assert evaluator.on_fewer(99) is evaluator


def test_quality_counts_labels_of_both() -> None:
    logits = np.eye(4, dtype=np.float32)
    images = dataclasses.replace(images_of(4), labels=np.array([0, 1, 2, 0]))
    reference = ReferenceOutputs(
        name="model.onnx", images=images, outputs=ModelOutputs(logits=logits)
    )
    evaluator = GraphEvaluator(reference=reference)
    other = logits.copy()
    other[1] = [0, 0, 0, 2]

    quality = evaluator.quality(ModelOutputs(logits=other))

    assert (quality.images, quality.agreement) == (4, 0.75)
    assert (quality.accuracy, quality.reference_accuracy) == (0.5, 0.75)
    assert quality.drop_pp == 25
    images = dataclasses.replace(images, labels=None)
    unlabelled = GraphEvaluator(reference=dataclasses.replace(reference, images=images))
    assert unlabelled.quality(ModelOutputs(logits=other)).accuracy is None


def test_a_better_reference_takes_the_place_of_the_graphs_own(merged: Path) -> None:
    better = ModelOutputs(logits=np.ones((12, 5)))

    found = evaluator_for(merged, read_manifest(merged), IMAGES, reference=better)

    assert found.reference.outputs is better
