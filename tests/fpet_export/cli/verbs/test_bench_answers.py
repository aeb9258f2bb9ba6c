"""`bench --data`: the answers of the artefacts that were timed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.accuracy import answering
from benchmarks.measurement_file import read_measurement
from engines.engine import open_engine
from engines.manifest import read_manifest
from engines.parity.outputs import engine_outputs
from tests.fpet_export.command_line import Exported, call

SHORT = ("--rounds", "4", "--seconds", "0", "--threads", "1", "--allow-noise")


@pytest.fixture(scope="module")
def beside(exported: Exported, engine: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An engine with the graph that it was built from beside it, as `build` leaves it."""
    folder = tmp_path_factory.mktemp("export") / "out"
    shutil.copytree(exported.graph.parent, folder)
    for path in engine.parent.iterdir():
        shutil.copy(path, folder)
    return folder / engine.name


@pytest.fixture(scope="module")
def pictures(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An `.npz` whose labels are what the float32 graph says, but for the last two images."""
    manifest = read_manifest(exported.graph)
    assert manifest.preprocessing is not None
    assert manifest.model is not None
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (10, *manifest.preprocessing.size, 3), np.uint8)
    with open_engine(exported.graph) as engine:
        labels = engine_outputs(engine, manifest, images).logits.argmax(axis=1)
    labels[-2:] = (labels[-2:] + 1) % manifest.model.classes
    path = tmp_path_factory.mktemp("pictures") / "pictures.npz"
    np.savez(path, images=images, labels=labels)
    return path


def test_accuracy_and_agreement_of_what_was_timed(
    exported: Exported, beside: Path, pictures: Path, tmp_path: Path
) -> None:
    out = tmp_path / "a.latency.json"

    done = call("bench", beside, "--data", pictures, *SHORT, "-o", out)

    assert done.code == 0, done.err
    (result,) = read_measurement(out).contenders
    found = result.accuracy
    assert found is not None
    assert (found.images, found.top1, found.agreement) == (10, 0.8, 1.0)
    assert found.reference == exported.graph.name
    assert sum(one.images for one in found.classes) == 10
    assert sum(one.correct for one in found.classes) == 8
    assert "accuracy 80.0%" in done.err
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


def test_an_interrupted_run_goes_on(
    beside: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answering, "AT_ONCE", 3)
    asked: list[int] = []
    real = engine_outputs

    def counted(engine: Any, manifest: Any, pixels: Any) -> Any:
        if len(asked) == 5:
            asked.append(-1)
            raise KeyboardInterrupt
        asked.append(len(pixels))
        return real(engine, manifest, pixels)

    monkeypatch.setattr(answering, "engine_outputs", counted)
    out = tmp_path / "a.latency.json"
    words = ("bench", beside, "--data", pictures, *SHORT, "-o", out)

    assert call(*words).code == 130
    assert not out.exists()
    assert asked == [3, 3, 3, 1, 3, -1]  # all of the reference, three of the engine

    done = call(*words)

    assert done.code == 0, done.err
    assert asked[6:] == [3, 3, 1]
    (result,) = read_measurement(out).contenders
    assert result.accuracy is not None
    assert (result.accuracy.images, result.accuracy.top1) == (10, 0.8)


def test_a_graph_that_is_not_at_hand_is_no_reference(engine: Path, pictures: Path) -> None:
    done = call("bench", engine, "--data", pictures, *SHORT, "--json")
    assert done.code == 0, done.err
    (result,) = json.loads(done.out)["contenders"]
    assert (result["accuracy"]["top1"], result["accuracy"]["agreement"]) == (0.8, None)


def test_a_named_reference(engine: Path, pictures: Path) -> None:
    done = call(
        "bench", engine, "--data", pictures, "--reference", engine, "--limit", "4", *SHORT, "--json"
    )
    assert done.code == 0, done.err
    (result,) = json.loads(done.out)["contenders"]
    assert result["accuracy"]["reference"] == engine.name
    assert result["accuracy"]["images"] == 4


@pytest.mark.parametrize(
    ("words", "code", "what"),
    [
        (("--reference", "x.onnx"), 2, "none are given"),
        (("--data", "nowhere"), 3, "nowhere"),
        (("--data", "PICTURES", "--reference", "x.onnx"), 3, "there is no such file"),
        (("--data", "PICTURES", "--remote", "orin"), 2, "the images stay here"),
        (("--data", "PICTURES", "--labels", "nowhere.txt"), 3, "nowhere.txt"),
    ],
)
def test_what_cannot_be_judged_is_refused_before_anything_is_timed(
    engine: Path, pictures: Path, words: tuple[str, ...], code: int, what: str
) -> None:
    done = call("bench", engine, *(pictures if word == "PICTURES" else word for word in words))
    assert (done.code, what in done.err) == (code, True), done.err
    assert "rounds" not in done.err


def test_from_file_to_class(engine: Path, images: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "a.latency.json"

    done = call("bench", engine, "--data", images[0].parent, *SHORT, "-o", out)

    assert done.code == 0, done.err
    (result,) = read_measurement(out).contenders
    found = result.end_to_end
    assert found is not None
    assert (found.batch, found.runs) == (1, 20)
    steps = (found.load, found.prepare, found.run)
    assert found.total.min_ns >= sum(one.min_ns for one in steps)
    assert "from file to class" in done.err


def test_arrays_are_no_files(engine: Path, pictures: Path) -> None:
    done = call("bench", engine, "--data", pictures, *SHORT, "--json")
    (result,) = json.loads(done.out)["contenders"]
    assert result["end_to_end"] is None
