"""What people get without this toolkit: the plain ViT, and the naive export."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from engines import open_engine
from engines.engine import load_target
from engines.manifest import read_manifest
from fpet_export.model.facts import Fact
from fpet_export.stages import Adapted
from fpet_export.steps import naive_export
from tests.fpet_export.tiny import (
    adapted,
    backbone_of,
    checkpoint_of,
    images_of,
    relative,
    spec_of,
    without_merging,
)


@pytest.fixture(scope="module")
def run() -> Adapted:
    spec = spec_of()
    checkpoint, backbone = checkpoint_of(spec), backbone_of(spec)
    return Adapted(
        model=adapted(spec, checkpoint),
        checkpoint=checkpoint,
        backbone=backbone,
        preprocessing=backbone.preprocessing,
        normalisation=Fact("none", "the test"),
    )


def test_the_plain_model_merges_nothing_and_leaves_the_folded_one_alone(run: Adapted) -> None:
    folded = run.fold()

    model = without_merging(folded)

    assert not model.merges
    assert list(folded.model.merges) == ["1"]
    images = torch.from_numpy(images_of(run.model.spec))
    with torch.inference_mode():
        merged, whole = folded.model(images).numpy(), model(images).numpy()
    assert relative(merged, whole) > 1e-4


def test_the_naive_graph_of_the_plain_model_is_right(run: Adapted, tmp_path: Path) -> None:
    model = without_merging(run.fold())
    images = images_of(run.model.spec)

    path = naive_export.naive_export(model, tmp_path / "plain.onnx", batch=2, quality="random")

    with open_engine(path) as engine:
        actual = engine.run({"images": images})["logits"]
    with torch.inference_mode():
        assert relative(actual, model(torch.from_numpy(images)).numpy()) < 1e-5
    manifest = read_manifest(path)
    assert manifest.weights == "random"
    assert manifest.preprocessing is None
    assert manifest.inputs[0].shape == (2, 3, 16, 16)
    assert manifest.outputs[0].shape == (2, 5)
    assert np.isfinite(actual).all()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["plain.manifest.json", "plain.onnx"]


def test_the_plain_graph_in_half_precision_says_the_same(run: Adapted, tmp_path: Path) -> None:
    images = images_of(run.model.spec)
    graph = naive_export.naive_export(
        without_merging(run.fold()), tmp_path / "plain.onnx", batch=2, quality="random"
    )

    half = naive_export.in_half_precision(graph, "fp16", load_target("rtx"))

    with open_engine(graph) as whole, open_engine(half) as other:
        apart = relative(
            other.run({"images": images})["logits"], whole.run({"images": images})["logits"]
        )
    assert 0 < apart < 5e-3
    assert read_manifest(half).precision == "fp16"
    assert read_manifest(half).inputs == read_manifest(graph).inputs


def test_a_dynamic_plain_graph_computes_no_shape_that_is_known(
    run: Adapted, tmp_path: Path
) -> None:
    """The exporter leaves eight operators an attention, which would slow the baseline down."""
    model = without_merging(run.fold())
    images = np.concatenate([images_of(run.model.spec)] * 2)

    path = naive_export.naive_export(model, tmp_path / "plain.onnx", batch=(1, 8), quality="random")

    nodes = onnx.load(path).graph.node
    assert sum(node.op_type == "Shape" for node in nodes) <= 1  # of the class token
    with open_engine(path) as engine, torch.inference_mode():
        for count in (1, len(images)):
            actual = engine.run({"images": images[:count]})["logits"]
            assert relative(actual, model(torch.from_numpy(images[:count])).numpy()) < 1e-5
    manifest = read_manifest(path)
    assert manifest.inputs[0].shape == ("batch", 3, 16, 16)
    assert manifest.batch_range == (1, 8)
