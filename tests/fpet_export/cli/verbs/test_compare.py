"""`compare`: run, graph and engine agree; two different runs do not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from engines.manifest import read_manifest
from tests.fpet_export.command_line import (
    Exported,
    call,
    pixels_of,
    write_files,
    write_images,
    write_shard,
)


@pytest.fixture(scope="module")
def another(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The graph of another run on the same backbone."""
    folder = tmp_path_factory.mktemp("another")
    run = write_files(folder, seed=2)
    done = call(
        "export", run.text, "--backbone", folder / "backbone.safetensors", "-o", folder / "out",
        "--limit", "1",
    )  # fmt: skip
    assert done.code == 0, done.err
    return folder / "out" / "model.onnx"


def test_a_run_its_graph_and_its_engine_agree(
    exported: Exported, engine: Path, tmp_path: Path
) -> None:
    out = tmp_path / "parity.json"
    run, *backbone = exported.words

    done = call("compare", run, exported.graph, engine, *backbone, "-o", out, "--json")

    document = done.document()
    assert document == json.loads(out.read_text())
    assert document["reference"] == "adapted model in float64"
    assert document["images"] == "8 synthetic images, seed 0"
    graph, built = document["rows"]
    assert (graph["stage"], built["stage"]) == ("model.onnx", "model.cpu.onnx")
    assert (graph["unexplained_flips"], graph["tokens_kept"]) == (0, 17)
    assert built["unexplained_flips"] is None  # an engine shows its logits only
    assert max(graph["relative"], built["relative"]) < 1e-5


def test_a_graph_can_be_the_reference(exported: Exported, engine: Path) -> None:
    done = call("compare", exported.graph, engine, "--limit", "2")

    assert done.code == 0
    assert done.out == "equal within the gates\n"
    assert "against the artefact model.onnx" in done.err


def test_two_different_runs_exit_7_and_name_the_artefact(
    exported: Exported, another: Path, tmp_path: Path
) -> None:
    run, *backbone = exported.words
    out = tmp_path / "parity.json"

    done = call("compare", run, exported.graph, another, *backbone, "--json", "-o", out)

    assert done.code == 7
    error = done.error()
    assert error["class"] == "ParityError"
    assert "model.onnx drifts from the reference" in error["what"]
    first, second = json.loads(out.read_text())["rows"]
    assert first["failures"] == []
    assert second["failures"] != []


def test_the_gate_can_be_loosened(exported: Exported, another: Path) -> None:
    strict = call("compare", exported.graph, another, "--json")
    loose = call("compare", exported.graph, another, "--relative", "100", "--json")

    assert strict.code == 7
    assert "relative difference" in strict.error()["what"]
    assert "relative difference" not in loose.out


def test_another_number_of_classes_is_refused(exported: Exported, tmp_path: Path) -> None:
    graph = exported.copy(tmp_path)
    manifest = read_manifest(graph)
    assert manifest.model is not None
    shard = write_shard(tmp_path / "val.npz", labels=np.full(6, 7))

    done = call("compare", graph, exported.graph, "--data", shard, "--json")

    assert done.code == 3
    assert "labels 7 to 7 for a model of 5 classes" in done.error()["what"]


def test_labels_give_an_accuracy(exported: Exported, engine: Path, tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "val.npz")

    document = call("compare", exported.graph, engine, "--data", shard, "--json").document()

    assert 0 <= document["rows"][0]["accuracy"] <= 1


def test_a_folder_of_images_without_labels(
    exported: Exported, engine: Path, tmp_path: Path
) -> None:
    write_images(tmp_path / "images", pixels_of(3, side=20))

    document = call(
        "compare", exported.graph, engine, "--data", tmp_path / "images", "--json"
    ).document()

    assert document["images"] == "3 of 3 images in images"
    assert document["rows"][0]["accuracy"] is None


def test_a_tampered_graph_is_refused(exported: Exported, tampered: Path) -> None:
    for pair in ((exported.graph, tampered), (tampered, exported.graph)):
        done = call("compare", *pair, "--json")

        assert done.code == 10
        assert done.error()["class"] == "TrustError"


def test_a_run_is_the_reference_or_refused(exported: Exported) -> None:
    done = call("compare", exported.graph, exported.run.text, "--json")

    assert done.code == 2
    assert done.error()["what"] == "a run can only be the reference"


def test_one_artefact_is_not_a_comparison(exported: Exported) -> None:
    assert (
        call("compare", exported.graph, "--json").error()["what"] == "only one artefact was given"
    )


def test_a_graph_without_a_manifest_is_refused(exported: Exported, tmp_path: Path) -> None:
    graph = tmp_path / "bare.onnx"
    graph.write_bytes(exported.graph.read_bytes())

    done = call("compare", exported.graph, graph, "--json")

    assert done.code == 3
    assert done.error()["where"] == str(graph)
    assert "no manifest" in done.error()["what"]
