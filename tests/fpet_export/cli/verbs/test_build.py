"""`build`: an engine beside its graph, compared with it where it runs."""

from __future__ import annotations

import contextlib
import json
import shutil
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest

from engines import open_engine
from engines.contract import Feeds, OpenOptions
from engines.errors import ParityError
from engines.manifest import manifest_path, read_manifest, write_manifest
from fpet_export.steps import built_engine as engine_steps
from tests.fpet_export.command_line import LABELS, Exported, call


@pytest.fixture(scope="module")
def for_rtx(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, exported for TensorRT-RTX."""
    out = tmp_path_factory.mktemp("rtx")
    words = (*exported.words, "--target", "rtx", "--limit", "1", "-o", out)
    assert call("export", *words).code == 0
    return out / "model.onnx"


def test_cpu_is_built_beside_the_graph_and_compared(exported: Exported, tmp_path: Path) -> None:
    graph = exported.copy(tmp_path)

    document = call("build", graph, "--target", "cpu", "--json").document()

    engine = tmp_path / "model.cpu.onnx"
    assert document["engine"] == str(engine)
    manifest = read_manifest(engine)
    assert (manifest.kind, manifest.target, manifest.weights) == ("engine", "cpu", "trained")
    assert manifest.labels == LABELS
    assert manifest.runtime is not None
    assert manifest.runtime.flavour == "onnxruntime"
    assert read_manifest(graph).sha256 in {parent.sha256 for parent in manifest.parents}
    assert document["fusion"] is None
    assert manifest.parity == document["parity"] == document["manifest"]["parity"]
    (row,) = document["parity"]["rows"]
    assert row["failures"] == []
    assert row["relative"] < 1e-5


def test_people_see_the_engine_and_the_next_commands(exported: Exported, tmp_path: Path) -> None:
    out = tmp_path / "e.onnx"

    done = call("build", exported.graph, "--target", "cpu", "-o", out)

    assert done.out == f"{out}\n"
    assert "onnxruntime" in done.err
    assert "largest logit difference" in done.err
    assert f"fpet-export bench {out}" in done.err


@pytest.mark.tensorrt
def test_rtx_is_built_without_a_gpu(for_rtx: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs the TensorRT-RTX package")
    out = tmp_path / "model.plan"

    done = call("build", for_rtx, "--sm", "8.6", "-o", out, "--json")

    assert done.code == 0, done.err
    manifest = read_manifest(out)
    assert manifest.runtime is not None
    assert manifest.runtime.compute_capabilities == ("8.6",)
    assert manifest.runtime.flavour == "tensorrt_rtx"
    assert "fused attentions" in done.err
    report = done.document()["fusion"]
    assert report == json.loads((tmp_path / "model.fusion.json").read_text())
    assert f"fusion     {len(report['kernels'])} kernels: " in done.err
    assert "/3 attentions fused" in done.err
    assert "every kernel:" not in done.err
    assert f"fpet-export show {out} -o {out.with_name('model.fusion.png')}" in done.err


@pytest.mark.tensorrt
def test_verbose_shows_every_kernel(for_rtx: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs the TensorRT-RTX package")
    out = tmp_path / "model.plan"

    done = call("build", for_rtx, "--target", "rtx", "--sm", "8.6", "-o", out, "-v")

    assert "every kernel:" in done.err
    assert "match argmax" in done.err
    assert (tmp_path / "model.fusion.json").exists()


def test_a_graph_of_a_newer_opset_is_refused(exported: Exported, tmp_path: Path) -> None:
    graph = exported.copy(tmp_path / "run")
    model = onnx.load(str(graph))
    model.opset_import[0].version = 21
    onnx.save(model, str(graph))
    write_manifest(graph, read_manifest(graph, verify=False))
    done = call("build", graph, "--target", "rtx-4090@trt10.3", "--json")

    assert done.code == 3
    what = "the graph has opset 21, the runtime of rtx-4090@trt10.3 reads up to 20"
    assert done.error()["what"] == what
    assert "--target rtx-4090@trt10.3 -o " in done.error()["fix"]
    assert f"fpet-export export {exported.run.text} " in done.error()["fix"]


def test_a_tampered_graph_is_refused(tampered: Path) -> None:
    done = call("build", tampered, "--target", "cpu", "--json")

    assert done.code == 10
    assert done.error()["class"] == "TrustError"
    assert not (tampered.parent / "model.cpu.onnx").exists()


def test_a_truncated_graph_without_a_manifest_is_refused(
    exported: Exported, tmp_path: Path
) -> None:
    graph = tmp_path / "cut.onnx"
    graph.write_bytes(exported.graph.read_bytes()[:-1000])

    done = call("build", graph, "--target", "cpu", "--json")

    assert done.code in (3, 6)
    assert "cut.onnx" in done.error()["where"]
    assert [path.name for path in tmp_path.iterdir()] == ["cut.onnx"]


def test_an_unknown_target_is_a_usage_error(exported: Exported) -> None:
    done = call("build", exported.graph, "--target", "cpuu", "--json")

    assert done.code == 2
    assert done.error()["class"] == "UnknownNameError"
    assert done.error()["fix"] == "did you mean 'cpu'?"


def test_a_missing_graph_is_refused(tmp_path: Path) -> None:
    done = call("build", tmp_path / "no.onnx", "--target", "cpu", "--json")

    assert done.code == 3
    assert "no.onnx" in done.error()["where"]


def test_a_graph_of_someone_else_is_built_but_not_compared(
    exported: Exported, tmp_path: Path
) -> None:
    graph = tmp_path / "theirs.onnx"
    onnx.save_model(onnx.load(str(exported.graph)), str(graph))

    done = call("build", graph, "--target", "cpu", "--json")

    assert done.code == 0, done.err
    assert done.document()["parity"] is None
    assert "not checked: the graph has no manifest" in done.err


def test_an_engine_that_gives_other_logits_exits_7(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = exported.copy(tmp_path)

    @contextlib.contextmanager
    def opening(path: Path, *, options: OpenOptions | None = None) -> Iterator[Any]:
        with open_engine(path, options=options) as engine:

            def run(feeds: Feeds) -> dict[str, Any]:
                return {"logits": engine.run(feeds)["logits"] + (".cpu." in path.name)}

            yield types.SimpleNamespace(inputs=engine.inputs, outputs=engine.outputs, run=run)

    monkeypatch.setattr("engines.parity.outputs.open_engine", opening)
    done = call("build", graph, "--target", "cpu", "--json")

    assert done.code == ParityError.exit_code
    assert done.error()["what"].startswith("model.cpu.onnx drifts from the reference")


def test_short_reasons_are_one_fact() -> None:
    error = ParityError("no GPU: a; b; c", where="x", fix="y")

    assert engine_steps.short_reason(error) == "no GPU"
    assert engine_steps.short_reason(ParityError("a: b", where="x", fix="y")) == "a: b"


def test_a_stale_side_car_is_refused(exported: Exported, tmp_path: Path) -> None:
    graph = exported.copy(tmp_path)
    side_car = manifest_path(graph)
    document = json.loads(side_car.read_text())
    side_car.write_text(json.dumps(document | {"surprise": 1}))

    done = call("build", graph, "--target", "cpu", "--json")

    assert done.code == 10
    assert "surprise" in done.error()["what"] + done.error()["where"]


def test_the_line_for_trtexec_is_printed_and_nothing_is_built(
    for_rtx: Path, tmp_path: Path
) -> None:
    graph = Path(shutil.copytree(for_rtx.parent, tmp_path, dirs_exist_ok=True)) / for_rtx.name
    before = sorted(tmp_path.iterdir())
    words = ("build", graph, "--target", "rtx-4090", "--print-trtexec")

    told, document = call(*words), call(*words, "--json").document()

    assert told.out.startswith(f"tensorrt_rtx --onnx={graph} ")
    assert "--computeCapabilities=89" in told.out
    assert document == {"trtexec": told.out.strip()}
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("text", ["1:8", "8:4:16", "0:1:2", "1:2:x", "1-8"])
def test_wrong_batches_are_refused(text: str, exported: Exported) -> None:
    done = call("build", exported.graph, "--target", "rtx", "--batch", text, "--json")

    assert done.code == 2
    assert "MIN:OPT:MAX" in done.error()["what"]


def test_a_target_of_an_old_jetpack_is_refused_in_a_sentence(exported: Exported) -> None:
    done = call("build", exported.graph, "--target", "jetson-xavier-nx", "--json")

    assert done.code == 2
    assert "JetPack 6.1 or later (TensorRT 10.3) is needed" in done.error()["what"]
    assert "--target cpu" in done.error()["fix"]


@pytest.mark.tensorrt
def test_a_card_is_built_for_with_tensorrt_rtx(for_rtx: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs the TensorRT-RTX package")
    graph = Path(shutil.copytree(for_rtx.parent, tmp_path, dirs_exist_ok=True)) / for_rtx.name

    done = call("build", graph, "--target", "rtx-4090@rtx", "--json")

    assert done.code == 0, done.err
    assert done.document()["engine"] == str(tmp_path / "model.rtx-4090-rtx.plan")
    assert done.document()["manifest"]["target"] == "rtx-4090@rtx"
