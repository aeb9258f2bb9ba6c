"""`tasks` and `predict --task`: a folder from files, judged, and every refusal in a sentence."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import fpet_export
from engines.imaging.images import read_files
from engines.manifest import read_manifest
from engines.parity.comparison import ReferenceOutputs
from engines.tasks import delta
from fpet_export.steps import built_engine as engine_steps
from tests.fpet_export.command_line import LABELS, call, pixels_of, write_images
from tests.fpet_export.tasks.task_files import TaskFiles


@pytest.fixture(scope="module")
def folder(task_files: TaskFiles) -> TaskFiles:
    return task_files


def test_what_it_leaves_and_says(folder: TaskFiles) -> None:
    document = folder.done.document()

    assert document["folder"] == str(folder.out)
    assert [task["name"] for task in document["index"]["tasks"]] == ["one", "two"]
    for table in ("reference", "single"):
        rows = document["parity"][table]["rows"]
        assert [row["stage"] for row in rows] == ["one", "two"]
        assert all(row["failures"] == [] and row["unexplained_flips"] == 0 for row in rows)
        assert all(0 < row["relative"] < 1e-5 for row in rows)
        assert all(row["tokens_kept"] == row["tokens_expected"] == 17 for row in rows)
    assert json.loads((folder.out / "parity.json").read_text()) == document["parity"]
    manifest = read_manifest(folder.out / "tasks/two.safetensors")
    assert manifest.labels == LABELS
    assert manifest.model is not None and manifest.model.method == "adaptformer"
    assert manifest.task is not None and manifest.task.logit_error is not None
    assert manifest.parity is not None
    assert "serves 2" in folder.done.err


def test_its_page_says_how_every_task_answers(folder: TaskFiles, tmp_path: Path) -> None:
    page, out = tmp_path / "page.html", tmp_path / "out"
    done = folder.tasks("-o", out, "--html", page)
    assert done.code == 0, done.err
    text = page.read_text("utf-8")

    assert "Both tasks give the same class as their fine-tuned models on all" in text
    assert f"Measure: <code>fpet-export bench {out}</code>" in text
    files = text[text.index("<h2>Files</h2>") :].partition("</table>")[0]
    named = set(re.findall(r'<th scope="row">([^<]+)</th>', files))
    written = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert named == written
    for table in ("adapted model in float64", "own export"):
        assert table in text
    assert folder.tasks("-o", tmp_path / "other", "--html", page).code == 2  # not overwritten
    assert not (tmp_path / "other").exists()


def test_predict_names_the_task_before_the_images(folder: TaskFiles, images: list[Path]) -> None:
    for name, run in (("one", folder.one), ("two", folder.two)):
        adapted = fpet_export.load(run.text, backbone=folder.backbone)
        logits = adapted.outputs(read_files(images, adapted.preprocessing).pixels).logits
        document = call("predict", folder.out, "--task", name, *images, "--json").document()
        found = [answer["classes"][0] for answer in document["predictions"]]
        assert [place["class"] for place in found] == logits.argmax(axis=1).tolist()
        shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        assert [place["probability"] for place in found] == pytest.approx(
            shares.max(axis=1), abs=5e-6
        )
        if name == "two":
            assert {place["name"] for place in found} <= set(LABELS)


def test_predict_without_a_task_lists_them(folder: TaskFiles, images: list[Path]) -> None:
    error = call("predict", folder.out, *images, "--json").error()
    assert error["exit_code"] == 2
    assert error["what"] == "this is a folder of the tasks one, two"
    assert error["fix"] == "say which one: --task one"


def test_predict_with_an_unknown_task_proposes_the_nearest(
    folder: TaskFiles, images: list[Path]
) -> None:
    error = call("predict", folder.out, "--task", "tow", *images, "--json").error()
    assert error["exit_code"] == 2
    assert error["what"] == "'tow' is not one of the tasks one, two"
    assert error["fix"] == "did you mean 'two'?"


def test_predict_with_a_task_of_a_graph_is_refused(folder: TaskFiles, images: list[Path]) -> None:
    graph = folder.out / "backbone.merge1.onnx"
    error = call("predict", graph, "--task", "one", *images, "--json").error()
    assert error["exit_code"] == 10
    assert "this is not a folder of tasks" in error["what"]


def test_the_shared_graph_alone_is_refused(folder: TaskFiles, images: list[Path]) -> None:
    graph = folder.out / "backbone.merge1.onnx"
    for words in (
        ("predict", graph, *images),
        ("compare", graph, graph),
    ):
        error = call(*words, "--json").error()
        assert error["exit_code"] == 3
        assert error["what"].startswith("many tasks share this artefact")


def test_nothing_is_overwritten(folder: TaskFiles) -> None:
    error = folder.tasks("-o", folder.out, "--json").error()
    assert error["exit_code"] == 2
    assert error["what"] == "tasks.json exists already"


def test_runs_of_one_name_are_refused(folder: TaskFiles, tmp_path: Path) -> None:
    error = folder.tasks("-o", tmp_path, "--json", runs=(folder.one.text, folder.two.text)).error()
    assert error["exit_code"] == 2
    assert error["what"] == "two runs are called 'cifar'"
    assert error["fix"] == "name one of them yourself: NAME=RUN"
    assert list(tmp_path.iterdir()) == []


def test_options_of_an_unknown_task_are_refused(folder: TaskFiles, tmp_path: Path) -> None:
    labels = folder.place / "labels.txt"
    error = folder.tasks("-o", tmp_path, "--labels", f"three={labels}", "--json").error()
    assert error["exit_code"] == 2
    assert error["what"] == "'three' is not one of the tasks one, two"


def test_class_names_must_be_one_a_class(folder: TaskFiles, tmp_path: Path) -> None:
    (tmp_path / "few.txt").write_text("ant\nbee\n")
    error = folder.tasks("-o", tmp_path, "--labels", tmp_path / "few.txt", "--json").error()
    assert error["what"] == "2 class names for 5 classes of 'one'"


def test_half_precision_factors_and_graphs(folder: TaskFiles, tmp_path: Path) -> None:
    words = ("--half", "fp16", "--target", "rtx", "--precision", "fp16", "-o", tmp_path, "--json")
    document = folder.tasks(*words).document()

    assert [row["failures"] for row in document["parity"]["single"]["rows"]] == [[], []]
    manifest = read_manifest(tmp_path / "backbone.merge1.lora.onnx")
    assert manifest.precision == "fp16"
    dtypes = {spec.name: spec.dtype for spec in manifest.inputs}
    assert dtypes["images"] == dtypes["refinement.down"] == "float32"  # the match stays float32
    assert dtypes["blocks.0.attn.qkv.weight"] == dtypes["head.weight"] == "float16"

    image = write_images(tmp_path / "images", pixels_of(1))[0]
    done = call("predict", tmp_path, "--task", "one", image)
    assert done.code == 0
    assert "no rtx engine is here: backbone.merge1.lora.onnx runs" in done.err


def test_an_engine_of_the_shared_graph_is_checked_with_every_task(
    folder: TaskFiles, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(folder.out, tmp_path / "copy"))
    done = call("build", copy / "backbone.merge1.onnx", "--target", "cpu", "--json")
    rows = done.document()["parity"]["rows"]
    assert [row["stage"] for row in rows] == ["one", "two"]
    assert all(row["failures"] == [] for row in rows)

    alone = tmp_path / "alone"
    alone.mkdir()
    for suffix in ("onnx", "manifest.json"):
        shutil.copy(folder.out / f"backbone.merge1.{suffix}", alone)
    done = call("build", alone / "backbone.merge1.onnx", "--target", "cpu")
    assert done.code == 0
    assert "not checked: the graph's tasks are not beside it" in done.err


def test_an_engine_that_drifts_for_one_task_is_refused(
    folder: TaskFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = Path(shutil.copytree(folder.out, tmp_path / "copy"))
    found = engine_steps._task_references

    def drift(graph: Path, recorded: Sequence[Path]) -> list[tuple[str, ReferenceOutputs]]:
        one, (name, two) = found(graph, recorded)
        outputs = dataclasses.replace(two.outputs, logits=two.outputs.logits * 1.01)
        return [one, (name, dataclasses.replace(two, outputs=outputs))]

    monkeypatch.setattr(engine_steps, "_task_references", drift)
    done = call("build", copy / "backbone.merge1.onnx", "--target", "cpu", "--json")
    assert done.error()["exit_code"] == 7
    assert done.error()["what"].startswith("two drifts from the reference")


@pytest.mark.parametrize(("margin", "code"), [(1e-7, 0), (1e-3, 7)])
def test_an_engine_of_tasks_is_not_refused_for_a_match_that_rounding_decides(
    folder: TaskFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, margin: float, code: int
) -> None:
    """Another machine merges elsewhere where two targets nearly tie, and there alone."""
    copy = Path(shutil.copytree(folder.out, tmp_path / "copy"))
    found = engine_steps._task_references

    def elsewhere(graph: Path, recorded: Sequence[Path]) -> list[tuple[str, ReferenceOutputs]]:
        one, (name, two) = found(graph, recorded)
        assert two.outputs.margin is not None
        logits, margins = two.outputs.logits.copy(), np.ones_like(two.outputs.margin)
        logits[1] += 0.01 * np.abs(logits).max()
        margins[1, 0] = margin
        outputs = dataclasses.replace(two.outputs, logits=logits, margin=margins)
        return [one, (name, dataclasses.replace(two, outputs=outputs))]

    monkeypatch.setattr(engine_steps, "_task_references", elsewhere)
    done = call("build", copy / "backbone.merge1.onnx", "--target", "cpu")
    assert done.code == code
    said = "two: largest" in done.err and "(3 of 4 judged" in done.err
    assert said == (code == 0)


def test_a_task_that_drifts_ends_with_7(
    folder: TaskFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = delta.write_delta

    def drift(path: Path, *, task: str, single: dict[str, np.ndarray], **rest: object) -> None:
        if task == "two":
            single = single | {"head.weight": single["head.weight"] * np.float32(1.01)}
        write(path, task=task, single=single, **rest)  # type: ignore[arg-type]

    monkeypatch.setattr("fpet_export.tasks.file.write_delta", drift)
    page = tmp_path / "page.html"
    error = folder.tasks("-o", tmp_path / "out", "--html", page, "--json").error()
    assert error["exit_code"] == 7
    text = page.read_text("utf-8")
    assert '<section class="verdict bad"' in text
    assert "The answers of two are not equal (relative difference 0.0" in text
    assert "Do not use this folder." in text
    assert "Measure" not in text
    assert error["what"].startswith("two drifts from the reference: relative difference 0.0")
    stored = json.loads((tmp_path / "out" / "parity.json").read_text())
    assert [bool(row["failures"]) for row in stored["single"]["rows"]] == [False, True]


def test_random_runs_bring_their_backbone(tmp_path: Path) -> None:
    text = "random:test_vit:0"
    words = ("--method", "lora", "--merge-block", "3", "--limit", "1", "-o", tmp_path, "--json")
    document = call("tasks", f"a={text}", *words).document()
    assert document["index"]["tasks"][0]["classes"] == 1000
    assert read_manifest(tmp_path / "tasks/a.safetensors").weights == "random"


def test_help_needs_no_torch() -> None:
    import subprocess
    import sys

    program = (
        "import sys; sys.modules['torch'] = None; sys.modules['onnx'] = None\n"
        "from fpet_export.cli.dispatch import main; main(['tasks', '--help'])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0 and "--half" in done.stdout
