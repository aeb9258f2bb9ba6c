"""`bench`: a paired measurement with its evidence; a noisy one is refused or marked."""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from engines.backends._provenance import read_source
from engines.engine import load_target
from engines.manifest import Manifest, Runtime, read_manifest, write_manifest
from engines.onnx_header import read_onnx_header
from fpet_export.cli import arguments
from fpet_export.cli.console import Console
from fpet_export.requests import Opening, made
from fpet_export.steps import plain_vit
from tests.fpet_export.command_line import Exported, call

SHORT = ("--rounds", "4", "--seconds", "0", "--threads", "1")


def test_against_plain_with_its_json_and_its_page(engine: Path, tmp_path: Path) -> None:
    out, page = tmp_path / "latency.json", tmp_path / "latency.html"

    done = call(
        "bench", engine, "--against", "plain", *SHORT, "--allow-noise", "-o", out, "--html", page,
        "--json",
    )  # fmt: skip

    assert done.code == 0, done.err
    document, stored = done.document(), json.loads(out.read_text())
    assert document["baseline"] == "plain.cpu"
    assert {c["name"] for c in document["contenders"]} == {"model.cpu", "plain.cpu"}
    assert {c["name"] for c in stored["contenders"]} == {"model.cpu", "plain.cpu"}
    ours = next(c for c in document["contenders"] if c["name"] == "model.cpu")
    assert ours["against"]["baseline"] == "plain.cpu"
    assert 0 < ours["against"]["low"] <= ours["against"]["ratio"] <= ours["against"]["high"]
    assert ours["against"]["verdict"] == "not valid"  # of four rounds
    assert (document["valid"], stored["valid"], document["attempts"]) == (False, False, 1)
    for text in (done.err, page.read_text()):
        assert not re.search(r"\d+x (faster|slower)", text)
    assert "plain.onnx: without merging, fp32, random weights" in done.err
    assert "rounds were measured" in done.err  # a short measurement says so
    html = page.read_text()
    assert "plain.cpu" in html
    assert "model.cpu" in html


def test_a_noisy_measurement_exits_9_and_keeps_its_evidence(
    exported: Exported, engine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "latency.json"
    monkeypatch.setattr("fpet_export.steps.measuring.refuse_few_rounds", lambda options: None)

    done = call("bench", exported.graph, engine, *SHORT, "-o", out, "--json")

    assert done.code == 9
    error = done.error()
    assert error["class"] == "MeasurementError"
    assert "4 rounds were measured" in error["what"]
    assert "--allow-noise" in error["fix"]
    assert len(json.loads(out.read_text())["contenders"]) == 2


def test_the_result_on_stdout_is_a_path_or_a_verdict(
    exported: Exported, engine: Path, tmp_path: Path
) -> None:
    words = (exported.graph, engine, *SHORT, "--allow-noise")
    out = tmp_path / "latency.json"

    assert call("bench", *words, "-o", out).out == f"{out}\n"
    unknown = "speed not known: 4 rounds were measured, 20 are needed"
    assert call("bench", *words).out.startswith(unknown)


def test_a_tampered_graph_is_refused(tampered: Path) -> None:
    for against in ((), ("--against", "plain")):
        done = call("bench", tampered, *against, *SHORT, "--allow-noise", "--json")

        assert done.code == 10
        assert done.error()["class"] == "TrustError"


def test_plain_needs_to_know_the_architecture(exported: Exported, tmp_path: Path) -> None:
    graph = tmp_path / "theirs.onnx"
    graph.write_bytes(exported.graph.read_bytes())

    done = call("bench", graph, "--against", "plain", *SHORT, "--allow-noise", "--json")

    assert done.code == 2
    assert "architecture" in done.error()["what"]


def test_a_plain_graph_that_nothing_is_measured_against_is_refused(engine: Path) -> None:
    done = call("bench", engine, "--plain", engine, *SHORT, "--json")

    assert done.code == 2
    assert done.error()["fix"] == "add --against plain"


@pytest.mark.parametrize(
    ("target", "precision", "name"),
    [
        ("cpu", "fp32", "plain.onnx"),
        ("cpu", "int8", "plain.onnx"),
        ("rtx", "fp32", "plain.onnx"),
        ("rtx", "fp16", "plain.fp16.onnx"),
        ("rtx", "bf16", "plain.bf16.onnx"),
        ("rtx", "int8", "plain.fp16.onnx"),
    ],
)
def test_the_plain_model_has_its_rival_s_half_precision(
    target: str, precision: str, name: str, exported: Exported, tmp_path: Path,
) -> None:  # fmt: skip
    """What half precision gains must not look like a gain of the merge."""
    rival = dataclasses.replace(read_manifest(exported.graph), precision=precision)
    place = load_target(target)

    source, graph = plain_vit.write(rival, place, tmp_path)

    manifest = read_manifest(graph)
    assert graph.name == name
    assert manifest.opset == 20
    assert source.onnx == tmp_path / "plain.onnx"
    read_source(graph, place)  # the target takes it
    stored = read_onnx_header(graph).weights
    half = {"plain.fp16.onnx": "float16", "plain.bf16.onnx": "bfloat16"}.get(name)
    types = {"float32"} if half is None else {half}
    assert types == {kind for kind in stored if "float" in kind}


@pytest.mark.parametrize(
    ("words", "fix"),
    [
        (("--peers", "ort_plan"), "did you mean 'ort_plain'?"),
        (("--peers", "zzz"), "choose one of the names above"),
    ],
)
def test_an_unknown_peer_is_refused_at_once(words: tuple[str, ...], fix: str, engine: Path) -> None:
    done = call("bench", engine, *words, "--json")

    assert done.code == 2
    assert done.error()["fix"] == fix
    assert done.err == ""


@pytest.mark.parametrize("option", ["--threads", "--rounds"])
def test_counts_begin_at_one(option: str, engine: Path) -> None:
    for text in ("0", "-1", "1.5"):
        done = call("bench", engine, f"{option}={text}", "--json")

        assert done.code == 2
        assert option in done.error()["what"]


def test_a_dynamic_batch_is_measured_at_its_smallest(exported: Exported, tmp_path: Path) -> None:
    words = (*exported.words, "-o", tmp_path, "--limit", "1", "--batch", "dyn:2-4")
    assert call("export", *words).code == 0

    for against in ((), ("--against", "plain")):
        graph = tmp_path / "model.onnx"
        done = call("bench", graph, *against, *SHORT, "--allow-noise", "--json")

        assert done.code == 0, done.err or done.out
        assert done.document()["batch"] == 2


@pytest.mark.parametrize(
    ("target", "flavour", "built_for", "asked"),
    [
        ("jetson-orin-nano-8gb@jp6.2", "tensorrt", ("8.7",), None),
        ("rtx-4090@rtx", "tensorrt_rtx", ("8.9",), ("8.9",)),
        ("rtx", "tensorrt_rtx", (), ()),
    ],
)
def test_the_plain_model_is_built_as_the_plan_was(
    target: str,
    flavour: str,
    built_for: tuple[str, ...],
    asked: tuple[str, ...] | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """TensorRT takes no compute capabilities, although its plans name one."""
    plan = Manifest(
        kind="engine", file="x.plan", inputs=(), outputs=(), precision="fp16", opset=20,
        target=target, weights="random",
        runtime=Runtime(flavour=flavour, version="1", compute_capabilities=built_for),
    )  # fmt: skip
    told: dict[str, Any] = {}

    def build(graph: Path, **settings: Any) -> Path:
        told.update(settings)
        return Path(settings["out"])

    monkeypatch.setattr("fpet_export.steps.plain_vit.build", build)
    (tmp_path / "x.plan").write_bytes(b"")
    write_manifest(tmp_path / "x.plan", plan)
    out = plain_vit.built_like(tmp_path / "x.plan", tmp_path / "plain.onnx", tmp_path, Console())

    assert told["target"].name == target
    assert told["options"].compute_capabilities == asked
    assert out.name == f"plain.{target.replace('@', '-')}.plan"


@pytest.mark.parametrize(
    ("words", "code", "what"),
    [
        (("--zero-copy",), 2, "only a plan of TensorRT"),
        (("--provider", "tensorrt"), 2, "built for the provider cpu, not tensorrt"),
    ],
)
def test_artefacts_are_opened_as_asked(
    engine: Path, words: tuple[str, ...], code: int, what: str
) -> None:
    done = call("bench", engine, *SHORT, "--allow-noise", *words)
    assert done.code == code
    assert what in done.err


def test_how_an_artefact_runs_is_said_again_to_a_board() -> None:
    parser = argparse.ArgumentParser()
    arguments.add_running(parser)
    for words in (["--provider", "cuda"], ["--no-cuda-graph", "--zero-copy"], []):
        assert made(Opening, vars(parser.parse_args(words))).running_argv() == words
