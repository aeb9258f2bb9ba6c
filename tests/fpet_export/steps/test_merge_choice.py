"""`--merge auto`: one pass over all blocks, and the earliest that keeps the limits."""

from __future__ import annotations

import dataclasses
import itertools
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import fpet_export
from calibration.accuracy import AccuracyConstraint, Quality
from engines.errors import MeasurementError, UsageError
from engines.imaging.images import ImageSet, PixelArray
from fpet_export.model.adapt import adapt, attached_merges
from fpet_export.model.backbones._names import raw_pixels
from fpet_export.model.checkpoints import Checkpoint
from fpet_export.model.facts import Fact
from fpet_export.model.merge_plan import NOWHERE, merge_plan
from fpet_export.model.merge_sweep import answers_by_merge
from fpet_export.reporter import SILENT, Recorder, Reporter
from fpet_export.stages import Adapted
from fpet_export.steps import merge_choice, merge_request, timed_choice
from fpet_export.steps.merge_choice import MergeCandidate
from fpet_export.workflow.export import Exported, ExportRequest, export
from tests.fpet_export.tiny import (
    adapted,
    backbone_of,
    checkpoint_of,
    images_of,
    relative,
    spec_of,
)

SPEC = spec_of(depth=4)
WHOLE_MODEL = Path(__file__).parents[1] / "model/checkpoints/peft_folders/vit/base"


def request_of(tmp_path: Path, **more: object) -> ExportRequest:
    return ExportRequest(run="run", out=tmp_path, **more)  # type: ignore[arg-type]


def run_of(checkpoint: Checkpoint) -> Adapted:
    backbone = backbone_of(SPEC)
    return Adapted(
        model=adapt(backbone, checkpoint),
        checkpoint=checkpoint,
        backbone=backbone,
        preprocessing=raw_pixels(SPEC.image),
        normalisation=Fact("none", "a test"),
    )


def candidate(merge: str, *missed: str) -> MergeCandidate:
    quality = Quality(images=4, sqnr_db=20.0, agreement=1.0)
    return MergeCandidate(merge=merge, tokens=9, macs=1, tiled=1, quality=quality, missed=missed)


def test_a_sweep_gives_what_each_model_gives_by_itself() -> None:
    images = torch.from_numpy(images_of(SPEC, 3))
    plain = checkpoint_of(SPEC, "lora", merge_block=None)
    ways = ("fpet@0", "fpet@2", "tome:r=3", "tome:r=2@0-2", "tome:r=3@0-1", NOWHERE)
    merges = {way: attached_merges(SPEC, merge_plan(SPEC, way), None) for way in ways}

    with torch.inference_mode():
        found = answers_by_merge(adapted(SPEC, plain), merges, images)

        assert set(found) == set(ways)
        for way, logits in found.items():
            alone = adapt(backbone_of(SPEC), dataclasses.replace(plain, merge=way))
            assert torch.allclose(logits, alone(images), rtol=1e-5, atol=1e-6)
        for one, other in itertools.combinations(found.values(), 2):
            assert not torch.allclose(one, other, rtol=1e-3)


@pytest.mark.parametrize(
    ("missed", "chosen"),
    [
        ([False, False, False, False], "fpet@0"),
        ([True, False, False, False], "fpet@1"),
        ([False, True, False, False], "fpet@2"),  # block 0 keeps the limits by luck alone
        ([True, True, True, False], NOWHERE),
    ],
)
def test_the_strongest_from_which_all_milder_ones_keep_the_limits(
    missed: list[bool], chosen: str
) -> None:
    family = [
        candidate(merge, *(["too much"] if bad else []))
        for merge, bad in zip(("fpet@0", "fpet@1", "fpet@2", NOWHERE), missed, strict=True)
    ]

    assert merge_choice._strongest(family).merge == chosen


def test_what_a_merge_uses_up_of_the_limits_is_not_left_to_a_precision(tmp_path: Path) -> None:
    limits = {"max_drop": 1.0, "min_agreement": 0.95}
    request = request_of(tmp_path, merge="auto", precision="int8", **limits)
    used = Quality(images=200, sqnr_db=20, agreement=0.99, accuracy=0.895, reference_accuracy=0.9)

    left = merge_choice._remaining(request, used)

    assert left.max_drop == pytest.approx(0.5)
    assert left.min_agreement == pytest.approx(0.96)
    assert left.merge is None
    better = dataclasses.replace(used, accuracy=0.91)
    assert merge_choice._remaining(request, better).max_drop == 1.0
    in_float32 = merge_choice._remaining(request_of(tmp_path, merge="auto", **limits), used)
    assert (in_float32.max_drop, in_float32.min_agreement) == (None, None)


@pytest.mark.parametrize(("merge", "block"), [("none", None), ("fpet@1", 1), ("fpet@2", 2)])
def test_a_run_merges_where_it_is_told_to(merge: str, block: int | None) -> None:
    """The refinement of the match belongs to the block that the run was trained in."""
    trained = run_of(checkpoint_of(SPEC, "lora", merge_block=2))

    moved = trained.merged(merge, "--merge")

    assert moved.checkpoint.merge_block == block
    assert moved.checkpoint.merges_untrained == (block == 1)
    assert str(moved.checkpoint.facts["merge"]) == f"{merge} (--merge)"
    images = torch.from_numpy(images_of(SPEC, 2))
    with torch.inference_mode():
        assert torch.equal(moved.model(images), trained.model(images)) == (block == 2)


def test_a_block_that_is_not_there_is_refused() -> None:
    with pytest.raises(UsageError, match="'fpet@4' names no block of 0 to 3"):
        run_of(checkpoint_of(SPEC, "lora")).merged("fpet@4", "--merge")


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"merge": "tome"}, "is not 'none', 'auto', 'fpet@N'"),
        ({"merge": "fpet@"}, "is not 'none'"),
        ({"merge": "auto"}, "no limit to keep"),
        ({"merge": "auto", "max_drop": 1.0}, "on images"),
    ],
)
def test_what_cannot_be_searched_is_refused(
    fields: dict[str, object], what: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=what):
        merge_request.refuse_unlimited(request_of(tmp_path, **fields))


def noise(count: int) -> PixelArray:
    found: PixelArray = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), np.uint8)
    return found


@pytest.fixture
def whole_model(tmp_path: Path) -> Path:
    """A model without adapters whose classes are equally likely on noise."""
    folder = tmp_path / "model"
    shutil.copytree(WHOLE_MODEL, folder)
    file = folder / "model.safetensors"
    mean = fpet_export.load(folder, normalisation="none").outputs(noise(24)).logits.mean(axis=0)
    tensors = load_file(file)
    tensors["classifier.bias"] -= torch.from_numpy(mean).float()
    save_file(tensors, file, metadata={"format": "pt"})
    return folder


@pytest.fixture
def labelled(tmp_path: Path, whole_model: Path) -> Path:
    """Images with the labels that the model without merging gives them, but for one."""
    path = tmp_path / "images.npz"
    found = fpet_export.load(whole_model, normalisation="none").outputs(noise(24)).logits
    labels = found.argmax(axis=1)
    labels[0] = (labels[0] + 1) % found.shape[1]
    np.savez(path, images=noise(24), labels=labels)
    return path


def exported(
    tmp_path: Path, run: Path, data: Path, reporter: Reporter = SILENT, **limits: Any
) -> tuple[Exported, dict[str, Any]]:
    out = tmp_path / "out"
    request = ExportRequest(
        run=str(run), normalisation="none", out=out, merge="auto", data=data, **limits
    )
    done = export(request, reporter)
    table: dict[str, Any] = json.loads((out / "merge-choice.json").read_text())
    return done, table


@pytest.fixture
def busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which nothing can be timed."""

    def measured(*_: object) -> None:
        raise MeasurementError("it is busy", where="here", fix="wait")

    monkeypatch.setattr(timed_choice, "measured", measured)


@pytest.mark.parametrize(("faster", "chosen"), [(True, NOWHERE), (False, "tome:r=7")])
def test_a_merge_that_does_not_pay_here_is_not_made(
    faster: bool,
    chosen: str,
    tmp_path: Path,
    whole_model: Path,
    labelled: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The measurement is a stand-in; that engines are timed for real is asked of `best`."""
    seen: list[str] = []

    def measured(graphs: dict[str, Path], *_: object) -> Any:
        seen.extend(graphs)
        assert all(path.exists() for path in graphs.values())
        verdict = "faster" if faster else "no difference shown"
        against = SimpleNamespace(verdict=verdict, ratio=0.5)
        return SimpleNamespace(
            valid=True,
            baseline=seen[0],
            result=lambda name: SimpleNamespace(
                against=against if name == "none" else None, latency=SimpleNamespace(p50_ns=2e6)
            ),
        )

    monkeypatch.setattr(timed_choice, "measured", measured)
    done, table = exported(tmp_path, whole_model, labelled, max_drop=100.0)

    assert done.manifest.model is not None
    assert done.manifest.model.merge == table["chosen"]["merge"] == chosen
    assert seen == ["tome-r-7", "fpet-0", "none"]
    assert table["by"] == "latency on cpu"
    assert table["latency_ms"] == {"tome:r=7": 2.0, "fpet@0": 2.0, "none": 2.0}


@pytest.mark.usefixtures("busy")
def test_a_model_that_was_never_trained_to_merge_is_merged(
    tmp_path: Path, whole_model: Path, labelled: Path
) -> None:
    done, table = exported(tmp_path, whole_model, labelled, max_drop=100.0)

    model = done.manifest.model
    assert model is not None
    assert model.merge == table["chosen"]["merge"] == "tome:r=7"  # 10 tokens, no refinement
    assert done.manifest.facts["merge"].startswith("tome:r=7 (--merge auto: accuracy ")
    ways = [one["merge"] for one in table["candidates"]]
    assert ways == ["fpet@0", *(f"tome:r={r}" for r in (7, 6, 5, 4, 2, 1)), NOWHERE]
    assert (table["by"], table["latency_ms"]) == ("multiply-adds", {})
    costs = [one["macs"] for one in table["candidates"]]
    assert table["chosen"]["macs"] == min(costs)
    plain = table["candidates"][-1]["quality"]
    assert (plain["agreement"], plain["accuracy"]) == (1.0, pytest.approx(23 / 24))
    with Image.open(tmp_path / "out" / "merge-choice.png") as picture:
        assert picture.size == (1040, 640)
    with pytest.raises(UsageError, match=r"merge-choice\.json"):
        request_again(tmp_path, whole_model, labelled)


def request_again(tmp_path: Path, run: Path, data: Path) -> None:
    """Export into a folder in which only the search's files are left."""
    for file in (tmp_path / "out").glob("*"):
        if not file.name.startswith("merge-choice"):
            file.unlink()
    exported(tmp_path, run, data, max_drop=100.0)


def test_a_limit_that_no_merge_keeps_merges_nowhere(
    tmp_path: Path, whole_model: Path, labelled: Path
) -> None:
    said = Recorder()
    done, table = exported(tmp_path, whole_model, labelled, said, min_agreement=1.0)

    names = [step.name for step in said.steps]
    assert (names.count("images"), names.count("search")) == (1, 2)
    assert any("judge little: one of them is" in step.text for step in said.steps)

    assert done.manifest.model is not None
    assert done.manifest.model.merge == NOWHERE
    assert table["chosen"]["merge"] == NOWHERE
    assert not table["candidates"][-1]["missed"]
    assert all(one["missed"] for one in table["candidates"] if one["merge"] == "fpet@0")


def test_a_run_that_was_trained_to_merge_is_its_own_reference() -> None:
    run = run_of(checkpoint_of(SPEC, "lora", merge_block=2))
    pixels = np.rint(images_of(SPEC, 6).transpose(0, 2, 3, 1) * 255).astype(np.uint8)
    images = ImageSet(pixels=pixels, description="noise")

    families = merge_choice._families(run)
    found = merge_choice.answers(run, families[0], images, SILENT)
    limits = AccuracyConstraint(min_agreement=0.0)
    own = found["fpet@2"]

    assert families == [["fpet@0", "fpet@1", "fpet@2"]]
    tiles = {"tile": 1, "batch": 1}
    judged = merge_choice._judged(run, "fpet@2", own, own, images, limits, tiles)
    assert judged.quality.agreement == 1.0
    assert relative(own, run.outputs(pixels).logits) < 1e-5
