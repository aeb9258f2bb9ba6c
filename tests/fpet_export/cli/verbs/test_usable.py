"""Nobody uses what failed its check unawares, whatever verb they type, and whatever was made of it.

`failed` is what `export` leaves when a stage drifts: a graph, its manifest and exit code 7.
"""

from __future__ import annotations

import dataclasses
import shlex
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

import engines
from engines import BuildOptions, OpenOptions
from engines.errors import InputError, ParityError
from engines.manifest import manifest_path, read_manifest, write_manifest
from engines.parity.model_outputs import ModelOutputs
from engines.verdict import verdict_of
from fpet_export.steps import built_engine as engine_steps
from tests.fpet_export.command_line import (
    Exported,
    call,
    export,
    perturb,
    pixels_of,
    write_images,
)
from tests.fpet_export.tasks.task_files import TaskFiles


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """An export whose frozen module drifts."""
    with pytest.MonkeyPatch.context() as patch:
        perturb(patch)
        found = export(tmp_path_factory.mktemp("failed"))
    assert found.done.code == 7
    return found


@pytest.fixture(scope="module")
def unchecked(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graph whose export was killed before its check."""
    graph = exported.copy(tmp_path_factory.mktemp("unchecked"))
    write_manifest(graph, dataclasses.replace(read_manifest(graph), parity=None))
    return graph


def words_of(verb: str, graph: Path, folder: Path, image: Path) -> list[object]:
    """Return a command that uses a graph."""
    out = folder / "out.onnx"
    return {
        "quantize": ["quantize", graph, "--precision", "int8", "--calibration", folder, "-o", out],
        "build": ["build", graph, "-o", folder / "x.cpu.onnx"],
        "trtexec": ["build", graph, "--print-trtexec", "--target", "rtx", "--force-form"],
        "remote build": ["build", graph, "--remote", "nowhere.invalid", "-o", out],
        "bench": ["bench", graph, "--rounds", "20"],
        "remote bench": ["bench", graph, "--remote", "nowhere.invalid"],
        "predict": ["predict", graph, image],
        "bundle": ["bundle", graph, "-o", folder / "b.bundle.tar"],
        "triton": ["triton", graph, "-o", folder / "models"],
        "deepstream": ["deepstream", graph, "-o", folder / "ds"],
        "check": ["check", graph, "--expect", image],
        "sign": ["sign", graph, "--key", image],
    }[verb]


VERBS = (
    "quantize", "build", "trtexec", "remote build", "bench", "remote bench", "predict", "bundle",
    "triton", "deepstream", "check", "sign",
)  # fmt: skip


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_refuses_a_failed_graph_and_names_the_stage(
    verb: str, failed: Exported, images: list[Path], tmp_path: Path
) -> None:
    done = call(*words_of(verb, failed.graph, tmp_path, images[0]), "--json")
    error = done.error()
    assert (done.code, error["class"]) == (7, "ParityError")
    assert "model.onnx failed its check: stage frozen: " in error["what"]
    assert "--force-failed" in error["fix"]
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("verb", ["build", "predict", "triton"])
def test_a_graph_that_passed_is_not_refused(
    verb: str, exported: Exported, images: list[Path], tmp_path: Path
) -> None:
    """The control."""
    done = call(*words_of(verb, exported.graph, tmp_path, images[0]))
    assert done.code == 0, done.err
    assert "failed its check" not in done.err and "never checked" not in done.err


def test_whoever_wants_it_gets_it_with_a_warning_and_the_failure_stays(
    failed: Exported, images: list[Path], tmp_path: Path
) -> None:
    engine = tmp_path / "model.cpu.onnx"
    done = call("build", failed.graph, "-o", engine, "--force-failed")
    assert done.code == 0, done.err
    assert "✗ parity     model.onnx failed its check: stage frozen" in done.err
    again = call("predict", engine, images[0], "--json")
    assert again.code == 7
    assert "was made from model.onnx, which failed its check" in again.error()["what"]
    for said in (done.err, call("verify", failed.graph).err):  # else the line would be refused
        assert any("bench" in line and "--force-failed" in line for line in said.splitlines())
    forced = call("predict", engine, images[0], "--force-failed")
    assert (forced.code, forced.out.count("\n")) == (0, 1)
    assert "failed its check" in forced.err


def test_a_typed_graph_inherits_the_failure(failed: Exported, tmp_path: Path) -> None:
    graph = tmp_path / "model.onnx"
    shutil.copy(failed.graph, graph)
    manifest = dataclasses.replace(read_manifest(failed.graph), target="rtx")
    write_manifest(graph, manifest)
    done = call("quantize", graph, "--precision", "fp16", "--force-failed")
    assert done.code == 0, done.err
    typed = read_manifest(tmp_path / "model.fp16.onnx")
    assert verdict_of(typed).state == "failed"
    assert (verdict_of(typed).file, typed.parents[0].verdict) == ("model.onnx", "failed")


def test_a_measurement_says_that_a_contender_failed(failed: Exported) -> None:
    words = ("bench", failed.graph, "--rounds", "20", "--seconds", "0.1", "--allow-noise")
    done = call(*words, "--force-failed", "--json")
    assert done.code == 0, done.err
    doubts = [one for one in done.document()["findings"] if "failed its check" in one["what"]]
    assert [one["severity"] for one in doubts] == ["doubtful"]


def test_a_deployment_that_drifts_marks_all_that_it_wrote(
    exported: Exported, images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    perturb(monkeypatch)
    out = tmp_path / "out"
    words = ("deploy", *exported.words, "--target", "cpu", "--limit", "1", "--no-bench", "-o", out)
    assert call(*words).code == 7
    for path in (out / "cpu/model.onnx", out / "cpu/model.cpu.onnx"):
        assert verdict_of(read_manifest(path)).state == "failed"
        done = call("predict", path, images[0], "--json")
        assert (done.code, done.error()["class"]) == (7, "ParityError")


def test_python_refuses_it_too(failed: Exported, tmp_path: Path) -> None:
    with pytest.raises(ParityError, match="stage frozen"):
        engines.open(failed.graph)
    with pytest.raises(ParityError, match="stage frozen"):
        engines.build(failed.graph, target="cpu", out=tmp_path / "x.onnx")
    with engines.open(failed.graph, options=OpenOptions(allow_failed=True)) as opened:
        assert opened.outputs
    options = BuildOptions(allow_failed=True)
    assert engines.build(failed.graph, target="cpu", out=tmp_path / "x.onnx", options=options)


def test_compare_and_show_are_there_to_find_out_why(
    failed: Exported, exported: Exported, images: list[Path], tmp_path: Path
) -> None:
    compared = call("compare", exported.graph, failed.graph, "--json")
    assert (compared.code, compared.error()["class"]) == (7, "ParityError")
    assert "drifts from the reference" in compared.error()["what"]
    shown = call("show", failed.graph, images[0], "-o", tmp_path / "x.png")
    assert shown.code == 0, shown.err
    assert "failed its check" in shown.err


def test_an_engine_that_drifts_from_its_graph_is_kept_as_failed(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = engine_steps._expected

    def other(graph: Path, recorded: Path | None = None) -> object:
        found = real(graph, recorded)
        outputs = ModelOutputs(logits=-found.outputs.logits)
        return dataclasses.replace(found, outputs=outputs)

    monkeypatch.setattr(engine_steps, "_expected", other)
    engine = tmp_path / "model.cpu.onnx"
    assert call("build", exported.graph, "-o", engine).code == 7
    assert verdict_of(read_manifest(engine)).state == "failed"
    with pytest.raises(ParityError, match="failed its check"):
        engines.open(engine)


def test_a_check_that_fails_elsewhere_is_kept(
    exported: Exported, engine: Path, images: list[Path], tmp_path: Path
) -> None:
    from engines.parity.outputs import reference_of
    from engines.parity.reference_file import write_reference

    mine = tmp_path / engine.name
    shutil.copy(engine, mine)
    shutil.copy(manifest_path(engine), manifest_path(mine))
    expected = reference_of(exported.graph)
    write_reference(tmp_path / "right.check.npz", expected)
    outputs = ModelOutputs(logits=-expected.outputs.logits)
    write_reference(tmp_path / "wrong.check.npz", dataclasses.replace(expected, outputs=outputs))
    before = manifest_path(mine).read_bytes()
    assert call("check", mine, "--expect", tmp_path / "right.check.npz").code == 0
    assert manifest_path(mine).read_bytes() == before  # it may be signed
    assert call("check", mine, "--expect", tmp_path / "wrong.check.npz").code == 7
    done = call("predict", mine, images[0], "--json")
    assert (done.code, done.error()["class"]) == (7, "ParityError")


def test_what_was_never_checked_is_used_and_that_is_said(
    unchecked: Path, images: list[Path], tmp_path: Path
) -> None:
    done = call("predict", unchecked, images[0])
    assert done.code == 0
    assert "! parity     model.onnx was never checked" in done.err
    engine = tmp_path / "model.cpu.onnx"
    built = call("build", unchecked, "-o", engine)
    assert built.code == 0
    assert "! parity     model.onnx was never checked" in built.err
    assert verdict_of(read_manifest(engine)).state == "unchecked"
    again = call("predict", engine, images[0])
    assert "model.cpu.onnx was made from model.onnx, which was never checked" in again.err


def broken(graph: Path) -> None:
    """Let the graph's logits be infinite, as if nobody had noticed."""
    model = onnx.load(graph)
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "head.bias")
    values = onnx.numpy_helper.to_array(bias).copy()
    values[0] = np.inf
    bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
    onnx.save(model, graph)
    write_manifest(graph, read_manifest(graph, verify=False))


@pytest.mark.parametrize("is_forced", [False, True])
@pytest.mark.parametrize("verb", ["predict", "bundle", "build", "quantize", "bench"])
def test_answers_that_are_no_numbers_are_an_error_everywhere(
    verb: str, is_forced: bool, exported: Exported, images: list[Path], tmp_path: Path
) -> None:
    graph = exported.copy(tmp_path / "graph")
    broken(graph)
    folder = tmp_path / "out"
    folder.mkdir()
    words = words_of(verb, graph, folder, images[1])
    if verb == "quantize":
        many = write_images(tmp_path / "many", pixels_of(8))[0].parent
        words[words.index("--calibration") + 1] = many
        words += ["--data", many]
    done = call(*words, "--json", *(["--force-failed"] if is_forced else []))
    error = done.error()
    assert done.code in (3, 7, 9), error  # an image of a calibration, an answer, a measurement
    assert "finite" in error["what"]
    assert "nan" not in done.out.lower().replace("finance", "")
    if verb == "predict":
        assert (done.code, error["where"]) == (7, str(graph))
        assert str(images[1]) in error["what"]


def test_a_task_that_failed_is_refused_wherever_it_is_used(
    task_files: TaskFiles, images: list[Path], tmp_path: Path
) -> None:
    folder = tmp_path / "tasks"
    shutil.copytree(task_files.out, folder)
    index = engines.open_tasks(folder).index
    first, second = index.names[:2]
    delta = folder / index.tasks[0].delta.file
    manifest = read_manifest(delta)
    assert manifest.parity is not None
    manifest.parity["single"]["rows"][0]["failures"] = ["relative difference 1"]
    write_manifest(delta, manifest)
    for words in (
        ["predict", folder, images[0], "--task", first],
        ["bench", folder, "--rounds", "20"],
        ["build", folder],
        ["bundle", folder, "-o", tmp_path / "b.bundle.tar"],
        ["triton", folder, "-o", tmp_path / "models"],
        ["check", folder],
    ):
        done = call(*words, "--json")
        error = done.error()
        assert (done.code, error["class"]) == (7, "ParityError"), words
        assert f"{first}: stage " in error["what"] and "relative difference 1" in error["what"]
        assert f"tasks -o {folder} --drop {first}" in error["fix"]
    assert call("predict", folder, images[0], "--task", second).code == 0
    assert call("predict", folder, images[0], "--task", first, "--force-failed").code == 0
    with engines.open_tasks(folder) as tasks, pytest.raises(ParityError, match="failed its check"):
        tasks.task(first)
    assert call("tasks", "-o", folder, "--drop", first).code == 0
    assert call("triton", folder, "-o", tmp_path / "models").code == 0


def test_a_task_that_cannot_even_be_compared_failed(
    task_files: TaskFiles, images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def single(*_: object) -> object:
        return ModelOutputs(logits=np.full((8, 5), np.nan))

    monkeypatch.setattr("fpet_export.tasks.verify._single_outputs", single)
    folder = tmp_path / "out"
    done = task_files.tasks("-o", folder, "--json", runs=task_files.runs[:1])
    assert (done.code, done.error()["class"]) == (7, "ParityError")
    text = (folder / "parity.json").read_text() + "".join(
        path.read_text() for path in folder.rglob("*.manifest.json")
    )
    assert "NaN" not in text and "Infinity" not in text
    monkeypatch.undo()
    for words in (["triton", folder, "-o", tmp_path / "m"], ["predict", folder, images[0]]):
        task = ["--task", "one"] if words[0] == "predict" else []
        refused = call(*words, *task, "--json")
        assert refused.code == 7
        assert "one: stage one: the reference gave 8 images" in refused.error()["what"]


def test_an_engine_whose_graph_gives_no_numbers_is_kept_as_failed(
    exported: Exported, tmp_path: Path
) -> None:
    graph = exported.copy(tmp_path)
    broken(graph)
    assert call("build", graph).code == 7
    assert verdict_of(read_manifest(tmp_path / "model.cpu.onnx")).state == "failed"


def test_a_graph_in_the_form_of_another_target_is_refused_with_the_command(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for words in (
        ["quantize", exported.graph, "--precision", "fp16", "--target", "rtx"],
        ["build", exported.graph, "--target", "rtx"],
        ["build", exported.graph, "--target", "tensorrt", "--print-trtexec"],
        [
            "build",
            exported.graph,
            "--target",
            "jetson-orin-nano-8gb",
            "--remote",
            "nowhere.invalid",
        ],
        ["bundle", exported.graph, "--target", "jetson-orin-nano-8gb"],
    ):
        done = call(*words, "--json")
        error = done.error()
        assert done.code == 3, words
        assert "attention scale" in error["what"] and "last block" in error["what"]
        assert "--force-form" in error["fix"]
    line = error["fix"].splitlines()[0].partition(": ")[2]
    go, _, export = line.rpartition(" && ")
    again = shlex.split(export)
    assert not go or shlex.split(go)[0] == "cd"  # where it was exported; its paths are absolute
    assert again[:2] == ["fpet-export", "export"]
    done = call(*again[1:], "--limit", "1")
    assert done.code == 0, done.err
    graph = Path(again[again.index("-o") + 1]) / "model.onnx"
    assert call("bundle", graph, "--target", "jetson-orin-nano-8gb").code == 0
    forced = call(
        "bundle", exported.graph, "--target", "jetson-orin-nano-8gb", "--force-form",
        "-o", tmp_path / "forced.bundle.tar",
    )  # fmt: skip
    assert forced.code == 0, forced.err
    assert "! form       not that of jetson-orin-nano-8gb@jp6.2: its attention scale" in forced.err


def test_python_refuses_another_form_too(exported: Exported, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="attention scale"):
        engines.build(exported.graph, target="rtx", out=tmp_path / "x.plan")


def test_build_takes_the_target_from_the_graph(exported: Exported, tmp_path: Path) -> None:
    graph = exported.copy(tmp_path / "out")
    done = call("build", graph, "--json")
    assert done.code == 0, done.err
    assert done.document()["manifest"]["target"] == "cpu"
    assert done.document()["engine"].endswith("model.cpu.onnx")
    manifest_path(graph).unlink()
    unknown = call("build", graph, "--json")
    assert (unknown.code, unknown.error()["class"]) == (2, "UsageError")
    assert "--target" in unknown.error()["fix"]
    missing = call("build", tmp_path / "none.onnx", "--json")
    assert (missing.code, missing.error()["what"]) == (3, "there is no such file")
