"""The example runs: what the exporter makes of their files is what their own model computes.

`expected.npz` was written by `examples/training/model.py`, which shares no network code with the
exporter.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import engines
import fpet_export
from engines.imaging.images import ImageSet, PixelArray
from engines.imaging.source import read_set
from engines.manifest import read_manifest
from engines.parity.outputs import engine_outputs
from fpet_export.stages import Adapted
from fpet_export.steps import verify
from fpet_export.steps.float64_reference import begin
from fpet_export.tasks import verify as task_verify
from fpet_export.tasks.export import export_tasks
from fpet_export.tasks.options import TaskOptions
from tests.fpet_export.tiny import relative

FOLDER = Path(__file__).parents[1] / "examples" / "digits"
COUNT = 8


@pytest.fixture(scope="module", params=["lora", "adaptformer"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def run(name: str) -> Adapted:
    return fpet_export.load(FOLDER / "runs" / name, backbone=FOLDER / "backbone.safetensors")


@pytest.fixture(scope="module")
def pixels(run: Adapted) -> PixelArray:
    return read_set(FOLDER / "test.npz", run.preprocessing).pixels[:COUNT]


@pytest.fixture(scope="module")
def expected(name: str) -> dict[str, np.ndarray]:
    with np.load(FOLDER / "expected.npz") as stored:
        return {key: stored[f"{name}_{key}"][:COUNT] for key in ("logits", "match", "margin")}


def test_the_reference_is_the_model_that_was_trained(
    run: Adapted, pixels: PixelArray, expected: dict[str, np.ndarray]
) -> None:
    evidence = run.outputs(pixels)

    assert evidence.match is not None
    assert relative(evidence.logits, expected["logits"]) < 1e-5  # its input is float32 pixels
    assert (evidence.match == expected["match"])[expected["margin"] > 1e-6].all()


def test_the_engine_gives_its_answers(
    run: Adapted, pixels: PixelArray, expected: dict[str, np.ndarray], tmp_path: Path
) -> None:
    check = begin(run, ImageSet(pixels=pixels, description="the first test digits"))
    graph = run.fold().freeze(batch=COUNT, target="cpu").to_onnx(tmp_path)

    row = verify.onnx_row(check, graph, lambda done: None)

    assert row.failures == ()  # flips within float32's rounding are allowed, and only those
    with engines.open(engines.build(graph, target="cpu")) as engine:
        logits = engine_outputs(engine, read_manifest(graph), pixels).logits
    assert (logits.argmax(axis=1) == expected["logits"].argmax(axis=1)).all()
    assert relative(logits, expected["logits"]) < 1e-2  # one patch merged elsewhere: about 1e-3


@pytest.mark.slow
def test_both_runs_are_tasks_of_one_backbone(tmp_path: Path) -> None:
    backbone = FOLDER / "backbone.safetensors"
    runs = {
        name: fpet_export.load(FOLDER / "runs" / name, backbone=backbone)
        for name in ("lora", "adaptformer")
    }
    options = TaskOptions()
    images = read_set(FOLDER / "test.npz", runs["lora"].preprocessing, limit=120)
    export_tasks(runs, tmp_path, options)

    found = task_verify.verify_tasks(tmp_path, runs, dict.fromkeys(runs, images), options)

    for one in found:
        for row in (one.reference, one.single):
            assert row.failures == ()
            assert row.relative < 1e-5
            assert row.agreement == 1.0
            assert row.unexplained_flips == 0
            assert row.tokens_kept == row.tokens_expected == 197
        assert one.reference.accuracy == one.single.accuracy
        assert one.single.accuracy is not None and one.single.accuracy > 0.5  # of ten classes
    assert (tmp_path / "tasks/lora.safetensors").stat().st_size < 210_000
    assert (tmp_path / "tasks/adaptformer.safetensors").stat().st_size < 60_000
