"""The Python API: the stages in order, and what each refuses."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

import fpet_export
from engines import open_engine
from engines.errors import CheckpointError, UsageError
from engines.imaging.synthetic import synthetic_set
from engines.manifest import read_manifest
from engines.parity.outputs import engine_outputs
from fpet_export.graph.options import FreezeOptions
from fpet_export.model.facts import Fact
from fpet_export.stages import Adapted, Folded
from tests.fpet_export.command_line import Exported, pixels_of
from tests.fpet_export.tiny import (
    CLASSES,
    adapted,
    backbone_of,
    checkpoint_of,
    reference_network,
    relative,
    spec_of,
)
from tests.references.fpet_reference import classify


@pytest.fixture(scope="module")
def loaded(exported: Exported) -> Adapted:
    return fpet_export.load(exported.run.text, backbone=exported.backbone)


@pytest.fixture(scope="module")
def folded(loaded: Adapted) -> Folded:
    return loaded.fold()


def test_one_line_makes_a_graph(loaded: Adapted, tmp_path: Path) -> None:
    pixels = pixels_of(3)

    path = loaded.fold().freeze(batch=2, input="uint8-nhwc").to_onnx(tmp_path)

    assert path == tmp_path / "model.onnx"
    manifest = read_manifest(path)
    assert manifest.inputs[0].shape == (2, 16, 16, 3)
    assert manifest.outputs[0].shape == (2, CLASSES)
    with open_engine(path) as engine:  # three images in batches of two: the last is filled up
        actual = engine_outputs(engine, manifest, pixels).logits
    expected = loaded.outputs(pixels).logits
    assert actual.shape == (3, CLASSES)
    assert relative(actual, expected) < 1e-5
    assert relative(expected[::-1], expected) > 1e-3  # negative control: the images matter


def test_the_reference_is_the_independent_one(exported: Exported, loaded: Adapted) -> None:
    pixels = pixels_of(2)
    network = reference_network(exported.run.spec, exported.run.written)

    evidence = loaded.outputs(pixels)

    images = pixels.astype(np.float32).transpose(0, 3, 1, 2) / np.float32(255)
    expected = np.stack([classify(network, image.astype(np.float64)).logits for image in images])
    assert relative(evidence.logits, expected) < 1e-9


def test_stages_leave_what_they_came_from_untouched(loaded: Adapted) -> None:
    pixels = pixels_of(2)
    before = loaded.outputs(pixels).logits

    loaded.fold().freeze()

    assert (loaded.outputs(pixels).logits == before).all()


def test_bytes_and_floats_give_equal_answers(folded: Folded) -> None:
    pixels = pixels_of(4)

    floats = folded.freeze().outputs(pixels)
    for raw in (
        folded.freeze(input="uint8-nchw").outputs(pixels),
        folded.freeze(input="uint8-nhwc").outputs(pixels),
    ):
        assert relative(raw.logits, floats.logits) < 1e-5
        assert raw.match is not None
        assert floats.match is not None
        np.testing.assert_array_equal(raw.match, floats.match)


def test_progress_counts_every_image(loaded: Adapted, folded: Folded) -> None:
    seen: list[int] = []
    pixels = synthetic_set((16, 16), 9).pixels

    for stage in (loaded, folded, folded.freeze()):
        seen.clear()
        stage.outputs(pixels, progress=seen.append)
        assert sum(seen) == 9


def test_a_graph_is_not_overwritten(folded: Folded, tmp_path: Path) -> None:
    path = tmp_path / "mine.onnx"
    path.write_text("precious")

    with pytest.raises(UsageError, match=r"mine\.onnx exists already"):
        folded.freeze().to_onnx(path)

    assert path.read_text() == "precious"


def test_labels_are_one_a_class(folded: Folded, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="2 class names for 5 classes"):
        folded.freeze().to_onnx(tmp_path, labels=["a", "b"])

    assert list(tmp_path.iterdir()) == []


def test_the_published_ties_are_not_reproduced_for_a_distilled_model() -> None:
    spec = spec_of(prefix=("cls", "dist"), pool="class+dist")
    checkpoint = checkpoint_of(spec)
    backbone = backbone_of(spec)
    run = Adapted(
        model=adapted(spec, checkpoint),
        checkpoint=checkpoint,
        backbone=backbone,
        preprocessing=backbone.preprocessing,
        normalisation=Fact("none", "the test"),
    )

    with pytest.raises(UsageError, match="distillation token") as caught:
        run.fold().freeze(ties="reference")

    assert "--ties argmax" in caught.value.fix
    assert run.fold().freeze().module.tokens[-1] > 0


def test_random_weights_anywhere_make_the_run_random(loaded: Adapted) -> None:
    random = dataclasses.replace(loaded.backbone, quality="random")

    assert loaded.quality == "trained"
    assert dataclasses.replace(loaded, backbone=random).quality == "random"


@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [
        (None, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
        ("imagenet", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ("half", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    ],
)
def test_a_normalisation_is_folded_into_the_graph(
    name: str | None,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    exported: Exported,
    loaded: Adapted,
) -> None:
    pixels = pixels_of(2)
    run = fpet_export.load(exported.run.text, backbone=exported.backbone, normalisation=name)

    frozen = run.fold().freeze()

    assert (run.preprocessing.mean, run.preprocessing.std) == (mean, std)
    assert frozen.preprocessing.in_graph
    assert relative(frozen.outputs(pixels).logits, run.outputs(pixels).logits) < 1e-5
    differs = relative(run.outputs(pixels).logits, loaded.outputs(pixels).logits)
    assert (differs > 1e-3) == (name is not None)


def test_a_run_without_its_backbone_is_refused(exported: Exported) -> None:
    with pytest.raises(CheckpointError, match="does not bring its backbone"):
        fpet_export.load(exported.run.text)


def test_outputs_still_answer_to_their_first_name(loaded: Adapted, folded: Folded) -> None:
    pixels = np.zeros((1, *loaded.preprocessing.size, 3), np.uint8)
    for stage in (loaded, folded, folded.freeze(batch=1)):
        np.testing.assert_array_equal(stage.evidence(pixels).logits, stage.outputs(pixels).logits)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("batch", 0),
        ("batch", (4, 2)),
        ("batch", "dyn"),
        ("input", "float16"),
        ("ties", "first"),
        ("attention_scale", "half"),
        ("last_block", "all"),
        ("updates", "fold"),
        ("attention", "flash"),
    ],
)
def test_what_no_graph_is_frozen_with_is_refused(name: str, value: object) -> None:
    with pytest.raises(UsageError, match=f"{name} is {re.escape(repr(value))}"):
        FreezeOptions(**{name: value})  # type: ignore[arg-type]


def test_a_head_that_is_none_of_three_is_refused() -> None:
    with pytest.raises(UsageError, match="head is 'feature'"):
        fpet_export.load("random:vit_tiny_patch16_224:0", head="feature")
