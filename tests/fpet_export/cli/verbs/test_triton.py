"""`triton`: a repository with the configuration, the model, its labels and its manifest."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

from engines.contract import OpenOptions
from engines.engine import open_engine
from engines.manifest import Companion, Runtime, read_manifest, write_manifest
from tests.fpet_export.command_line import LABELS, Exported, call
from tests.fpet_export.triton.triton_message import parse_config


@pytest.fixture
def plan(exported: Exported, tmp_path: Path) -> Path:
    """A stand-in for a plan: nothing here opens it."""
    path = tmp_path / "model.fp16.plan"
    path.write_bytes(b"not a plan")
    manifest = read_manifest(exported.graph)
    runtime = Runtime(flavour="tensorrt", version="10.13.3.9", compute_capabilities=("8.6",))
    write_manifest(
        path, dataclasses.replace(manifest, kind="engine", target="tensorrt", runtime=runtime)
    )
    return path


def rewrite(path: Path, **changes: object) -> None:
    manifest = read_manifest(path)
    write_manifest(path, dataclasses.replace(manifest, **changes))  # type: ignore[arg-type]


def test_a_graph_is_served_by_onnxruntime(exported: Exported, tmp_path: Path) -> None:
    models = tmp_path / "models"

    done = call("triton", exported.graph, "-o", models, "--instances", 2, "--json")

    home = models / "model"
    config = parse_config((home / "config.pbtxt").read_text())
    manifest = read_manifest(exported.graph)
    assert done.code == 0, done.err
    assert done.document()["kind"] == "KIND_CPU"
    assert done.document()["preprocessing"]["decode"] == "plain"
    assert "send RGB as stored (plain) · bicubic to 16x16" in done.err
    assert config.name == "model"
    assert config.instance_group[0].count == 2
    assert [one.name for one in config.input] == [one.name for one in manifest.inputs]
    assert list(config.input[0].dims) == list(manifest.inputs[0].shape)
    assert (home / "labels.txt").read_text().splitlines() == list(LABELS)
    assert (home / "1/model.onnx").read_bytes() == exported.graph.read_bytes()
    assert {path.name for path in home.rglob("*") if path.is_file()} == {
        "config.pbtxt", "labels.txt", "model.onnx", "model.manifest.json",
    }  # fmt: skip


def test_what_is_served_can_still_be_verified_and_opened(
    exported: Exported, tmp_path: Path
) -> None:
    assert call("triton", exported.graph, "-o", tmp_path).code == 0
    served = tmp_path / "model/1/model.onnx"

    done = call("verify", served)

    assert done.code == 0, done.err
    with open_engine(served, options=OpenOptions()) as engine:
        shape = [int(extent) for extent in engine.inputs[0].shape]
        feeds = {engine.inputs[0].name: np.zeros(shape, engine.inputs[0].dtype)}
        assert engine.run(feeds)


def test_a_plan_is_served_by_tensorrt_on_gpus(plan: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"

    done = call("triton", plan, "-o", models, "--gpus", "0,1", "--name", "digits", "--json")

    config = parse_config((models / "digits/config.pbtxt").read_text())
    assert done.code == 0, done.err
    assert config.backend == "tensorrt"
    assert list(config.instance_group[0].gpus) == [0, 1]
    assert (models / "digits/1/model.plan").read_bytes() == b"not a plan"
    assert "needs tensorrt 10.13.3.9" in done.err


def test_a_dynamic_batch_comes_from_the_export(exported: Exported, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert call("export", *exported.words, "--batch", "dyn:1-6", "-o", out).code == 0

    done = call("triton", out / "model.onnx", "-o", tmp_path / "m", "--queue-delay", 250, "--json")

    config = parse_config((tmp_path / "m/model/config.pbtxt").read_text())
    assert done.document()["max_batch_size"] == config.max_batch_size == 6
    assert config.dynamic_batching.max_queue_delay_microseconds == 250
    assert list(config.input[0].dims) == list(read_manifest(out / "model.onnx").inputs[0].shape[1:])


def test_weights_beside_the_graph_come_along(exported: Exported, tmp_path: Path) -> None:
    graph = exported.copy(tmp_path / "run")
    graph.with_name("model.weights").write_bytes(b"weights")
    rewrite(graph, companions=(Companion(file="model.weights"),))

    assert call("triton", graph, "-o", tmp_path / "models").code == 0

    served = tmp_path / "models/model/1/model.onnx"
    assert served.with_name("model.weights").read_bytes() == b"weights"
    assert read_manifest(served).companions[0].file == "model.weights"


def test_another_version_leaves_the_first(exported: Exported, tmp_path: Path) -> None:
    words = ("triton", exported.graph, "-o", tmp_path)
    assert call(*words).code == 0
    before = (tmp_path / "model/1/model.onnx").stat().st_mtime_ns

    refused = call(*words, "--model-version", 2, "--json")
    assert refused.code == 2
    assert not (tmp_path / "model/2").exists()
    done = call(*words, "--model-version", 2, "--force")

    assert done.code == 0, done.err
    assert (tmp_path / "model/2/model.onnx").is_file()
    assert (tmp_path / "model/1/model.onnx").stat().st_mtime_ns == before


def test_nothing_is_overwritten_without_force(exported: Exported, tmp_path: Path) -> None:
    words = ("triton", exported.graph, "-o", tmp_path)
    assert call(*words).code == 0
    (tmp_path / "model/config.pbtxt").write_text("mine")

    done = call(*words, "--json")

    assert done.code == 2
    assert "exists already" in done.error()["what"]
    assert (tmp_path / "model/config.pbtxt").read_text() == "mine"
    assert call(*words, "--force").code == 0
    assert parse_config((tmp_path / "model/config.pbtxt").read_text()).name == "model"


def test_a_tampered_graph_is_refused(tampered: Path, tmp_path: Path) -> None:
    done = call("triton", tampered, "-o", tmp_path / "models", "--json")

    assert done.code == 10
    assert not (tmp_path / "models").exists()


def test_a_graph_that_changes_while_it_is_copied_is_refused(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def copy_another(source: Path, target: Path) -> None:
        target.write_bytes(source.read_bytes()[:-1])

    monkeypatch.setattr("engines.storage.shutil.copyfile", copy_another)

    done = call("triton", exported.graph, "-o", tmp_path / "models", "--json")

    assert done.code == 10
    assert "changed while it was copied" in done.error()["what"]
    assert not list((tmp_path / "models").rglob("*.*"))


def test_a_plan_of_tensorrt_rtx_has_no_backend(plan: Path, tmp_path: Path) -> None:
    rewrite(plan, runtime=Runtime(flavour="tensorrt_rtx", version="1.7.1"))

    done = call("triton", plan, "-o", tmp_path / "models", "--json")

    assert done.code == 2
    assert "no backend for engines of tensorrt_rtx" in done.error()["what"]
    assert "a plan of TensorRT" in done.error()["fix"]


def test_an_engine_runs_where_it_was_built_for(engine: Path, plan: Path, tmp_path: Path) -> None:
    on_cpu = call("triton", engine, "-o", tmp_path / "a", "--json")
    on_gpu = call("triton", engine, "-o", tmp_path / "b", "--gpus", "0", "--json")
    plan_on_cpu = call("triton", plan, "-o", tmp_path / "c", "--cpu", "--json")

    assert on_cpu.code == 0
    assert on_cpu.document()["model"] == "model_cpu"
    assert "built for the CPU, and a GPU is to run it" in on_gpu.error()["what"]
    assert "built for a GPU, and the CPU is to run it" in plan_on_cpu.error()["what"]
    assert not (tmp_path / "b").exists()


def test_a_graph_may_run_on_either(exported: Exported, tmp_path: Path) -> None:
    done = call("triton", exported.graph, "-o", tmp_path, "--gpus", "1", "--json")

    assert done.document()["kind"] == "KIND_GPU"


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("--name", "a/b"), 3),
        (("--name", ".."), 3),
        (("--gpus", "0,x"), 2),
        (("--gpus", "0,0"), 2),
        (("--gpus", "0", "--cpu"), 2),
        (("--instances", "0"), 2),
        (("--queue-delay", "100"), 2),
    ],
)
def test_what_makes_no_sense_is_refused(
    words: tuple[str, ...], code: int, exported: Exported, tmp_path: Path
) -> None:
    done = call("triton", exported.graph, "-o", tmp_path / "models", *words, "--json")

    assert done.code == code
    assert not (tmp_path / "models").exists()


def test_a_bundle_is_not_served(exported: Exported, tmp_path: Path) -> None:
    out = tmp_path / "x.bundle.tar"
    assert call("bundle", exported.graph, "-o", out).code == 0

    assert "this is a bundle" in call("triton", out, "-o", tmp_path, "--json").error()["what"]


def test_random_weights_are_named(exported: Exported, tmp_path: Path) -> None:
    graph = exported.copy(tmp_path / "run")
    rewrite(graph, weights="random")

    done = call("triton", graph, "-o", tmp_path / "models")

    assert re.search("weights +random, good for speed only", done.err)
