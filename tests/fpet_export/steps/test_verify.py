"""Parity of the stages of an export: which images are accepted, and which stage is blamed."""

from __future__ import annotations

import copy
import dataclasses
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fpet_export
from engines.errors import InputError, ParityError
from engines.imaging.images import ImageSet
from engines.imaging.synthetic import synthetic_set
from engines.manifest import WHITE, Manifest, Preprocessing, TensorSpec, read_manifest
from engines.parity import table as parity_table
from engines.parity.comparison import ReferenceOutputs
from engines.parity.model_outputs import ModelOutputs
from engines.parity.outputs import engine_outputs, manifest_of
from engines.parity.rows import StageParity, judge
from fpet_export.stages import Adapted, Folded, Frozen
from fpet_export.steps import verify
from fpet_export.steps.float64_reference import begin, check_labels
from fpet_export.steps.graph_outputs import graph_outputs
from tests.fpet_export.command_line import Exported


@pytest.fixture(scope="module")
def loaded(exported: Exported) -> Adapted:
    return fpet_export.load(exported.run.text, backbone=exported.backbone)


@pytest.fixture(scope="module")
def check(loaded: Adapted) -> ReferenceOutputs:
    return begin(loaded, synthetic_set((16, 16), 4))


def checkpoint_row(check: ReferenceOutputs, adapted: Adapted) -> StageParity:
    found = adapted.outputs(check.images.pixels, dtype=torch.float32)
    return check.compare("checkpoint f32", found, judged=False)


def folded_row(check: ReferenceOutputs, folded: Folded) -> StageParity:
    return check.compare("folded", folded.outputs(check.images.pixels))


def labelled(labels: list[int], names: tuple[str, ...] = ()) -> ImageSet:
    pixels = np.zeros((len(labels), 16, 16, 3), np.uint8)
    return ImageSet(
        pixels=pixels, description="some data", labels=np.array(labels), class_names=names
    )


def nothing(count: int) -> None:
    assert count > 0


@pytest.mark.parametrize("labels", [[5], [-1], [0, 4, 100]])
def test_labels_out_of_range_are_refused(labels: list[int], loaded: Adapted) -> None:
    with pytest.raises(InputError, match="for a model of 5 classes") as caught:
        begin(loaded, labelled(labels))

    assert caught.value.where == "some data"


@pytest.mark.parametrize("names", [("a", "b"), tuple("abcdef")])
def test_another_number_of_classes_is_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match=f"{len(names)} classes for a model of 5 classes"):
        check_labels(labelled([0, 1], names), 5)


def test_labels_that_fit_are_accepted() -> None:
    check_labels(labelled([0, 4]), 5)
    check_labels(labelled([0, 4], tuple("abcde")), 5)
    check_labels(synthetic_set((4, 4), 1), 5)


def test_labels_give_every_stage_its_accuracy(loaded: Adapted) -> None:
    pixels = synthetic_set((16, 16), 4).pixels
    right = loaded.outputs(pixels).logits.argmax(axis=1)
    labels = np.where(np.arange(4) < 3, right, (right + 1) % 5)
    images = ImageSet(pixels=pixels, description="four", labels=labels)

    row = folded_row(begin(loaded, images), loaded.fold())

    assert row.accuracy == 0.75


def test_the_stages_of_a_good_export_pass(
    exported: Exported, loaded: Adapted, check: ReferenceOutputs
) -> None:
    folded = loaded.fold()

    rows = [
        checkpoint_row(check, loaded),
        folded_row(check, folded),
        verify.frozen_row(check, folded.freeze(), nothing),
        verify.onnx_row(check, exported.graph, nothing),
    ]
    table = check.table(rows)

    assert table.first_failure() is None
    assert [row.stage for row in table.rows] == ["checkpoint f32", "folded", "frozen", "onnx"]
    assert all((row.tokens_kept, row.tokens_expected) == (17, 17) for row in rows)
    assert table.images == "4 synthetic images, seed 0"
    judge(table, fix="nothing")


@pytest.mark.parametrize("layer", ["patch", "qkv", "fc2", "head"])
def test_one_changed_weight_is_blamed_on_the_frozen_stage(
    layer: str, loaded: Adapted, check: ReferenceOutputs
) -> None:
    folded = loaded.fold()
    frozen = copy.deepcopy(folded.freeze())  # the stages share their weights
    drift(frozen, layer)

    rows = [
        folded_row(check, folded),
        verify.frozen_row(check, frozen, nothing),
    ]

    assert rows[0].passed
    with pytest.raises(ParityError, match="frozen drifts from the reference"):
        judge(check.table(rows), fix="nothing")


def drift(frozen: Frozen, layer: str) -> None:
    named = frozen.module.named_parameters()
    weight = next(p for name, p in named if layer in name and p.ndim >= 2)
    with torch.no_grad():
        weight.view(-1)[0] += 1.0


def test_the_float32_checkpoint_is_shown_and_not_judged(check: ReferenceOutputs) -> None:
    wrong = ModelOutputs(logits=check.outputs.logits + 1)

    assert check.compare("checkpoint f32", wrong, judged=False).passed
    assert not check.compare("onnx", wrong).passed


def test_ties_are_counted_over_the_images(check: ReferenceOutputs) -> None:
    assert check.table([]).tied_images == 0


def test_a_graph_without_a_manifest_is_refused(exported: Exported, tmp_path: Path) -> None:
    graph = tmp_path / "bare.onnx"
    graph.write_bytes(exported.graph.read_bytes())

    with pytest.raises(InputError, match="no manifest") as caught:
        graph_outputs(graph, np.zeros((1, 16, 16, 3), np.uint8))

    assert "export" in caught.value.fix
    assert manifest_of(exported.graph) == read_manifest(exported.graph)


@pytest.mark.parametrize(
    ("rows", "batch_range", "count", "batches"),
    [
        (3, None, 5, [3, 3]),
        (1, None, 2, [1, 1]),
        ("batch", (1, 4), 5, [4, 1]),
        ("batch", (2, 4), 5, [4, 2]),
        ("batch", None, 2, [1, 1]),
    ],
)
def test_images_run_in_the_batches_an_engine_takes(
    rows: int | str, batch_range: tuple[int, int] | None, count: int, batches: list[int]
) -> None:
    seen: list[int] = []

    def run(feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        seen.append(len(feeds["images"]))
        return {"logits": feeds["images"].mean(axis=(2, 3)) * 255}

    spec = TensorSpec(name="images", shape=(rows, 3, 4, 4), dtype="float32")
    out = TensorSpec(name="logits", shape=(rows, 3), dtype="float32")
    engine: Any = types.SimpleNamespace(inputs=(spec,), outputs=(out,), run=run)
    manifest = Manifest(
        kind="engine", file="x", inputs=(spec,), outputs=(out,), precision="fp32", opset=20,
        target="cpu", weights="trained", batch_range=batch_range,
        preprocessing=Preprocessing(
            size=(4, 4), interpolation="bicubic", crop=1.0, decode="full", background=WHITE,
            mean=(0.0,) * 3, std=(1.0,) * 3,
        ),
    )  # fmt: skip
    pixels = np.arange(count, dtype=np.uint8)[:, None, None, None] * np.ones((4, 4, 3), np.uint8)

    evidence = engine_outputs(engine, manifest, pixels)

    assert seen == batches
    expected = np.arange(count)[:, None].repeat(3, axis=1)
    np.testing.assert_allclose(evidence.logits, expected, atol=1e-4)


def test_one_pass_says_what_the_stages_say_one_by_one(loaded: Adapted) -> None:
    images, folded = synthetic_set((16, 16), 10), loaded.fold()  # more than one chunk
    done: list[int] = []

    check, checkpoint, row = verify.until_fold(loaded, folded, images, progress=done.append)

    alone = begin(loaded, images)
    np.testing.assert_allclose(check.outputs.logits, alone.outputs.logits, rtol=1e-12)
    assert check.outputs.match is not None
    assert alone.outputs.match is not None
    np.testing.assert_array_equal(check.outputs.match, alone.outputs.match)
    assert checkpoint == checkpoint_row(alone, loaded)
    assert (row.stage, row.images, row.passed) == ("folded", 2, True)
    assert sum(done) == verify.forward_passes(10) == 22
    table = check.table([checkpoint, row])
    assert "folded was compared on the first 2 images" in parity_table.remarks(table)


def test_a_wrong_fold_shows_on_the_few_images_that_it_is_compared_on(loaded: Adapted) -> None:
    folded = loaded.fold()
    wrong = copy.deepcopy(folded.model)
    with torch.no_grad():
        wrong.each_block()[0].attn.qkv.weight.mul_(1.001)

    _, _, row = verify.until_fold(
        loaded, dataclasses.replace(folded, model=wrong), synthetic_set((16, 16), 4)
    )

    assert not row.passed
