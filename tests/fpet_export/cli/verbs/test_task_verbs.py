"""What the other verbs do with a folder of tasks, and what they say where they do nothing."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines.manifest import read_manifest
from engines.storage import sha256_of
from engines.tasks import delta as task_delta
from engines.tasks.folder import check_folder
from fpet_export.tasks import verify
from tests.fpet_export.command_line import LABELS, Done, call, write_shard
from tests.fpet_export.tasks.task_files import TaskFiles


@pytest.fixture
def copy(task_files: TaskFiles, tmp_path: Path) -> Path:
    return Path(shutil.copytree(task_files.out, tmp_path / "copy"))


def hashes(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): sha256_of(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# inspect


def test_inspect_lists_graphs_and_tasks(copy: Path) -> None:
    assert call("build", copy).code == 0

    done = call("inspect", copy, "--json")
    lines = call("inspect", copy).err

    document = done.document()
    (graph,) = document["graphs"]
    assert graph["serves"] == 2 and graph["engine"] == "backbone.merge1.cpu.onnx"
    one, two = document["tasks"]
    assert (one["method"], two["method"], two["bits"]) == ("lora", "adaptformer", 1)
    assert two["labels"] == list(LABELS) and two["classes"] == len(LABELS)
    assert one["passed"] and 0 < one["parity"] < 1e-5 and 0 <= one["logit_error"] < 1e-5
    assert one["bytes"] == (copy / "tasks/one.safetensors").stat().st_size
    row = next(line.split() for line in lines.splitlines() if line.split()[:1] == ["two"])
    assert row[:4] == ["two", "adaptformer", "1", str(two["rank"])]


def test_inspect_needs_no_torch(task_files: TaskFiles) -> None:
    program = (
        "import sys; sys.modules['torch'] = None; sys.modules['onnx'] = None\n"
        "from fpet_export.cli.dispatch import main\n"
        f"sys.exit(main(['inspect', {str(task_files.out)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_task_that_was_never_compared_has_no_number(copy: Path) -> None:
    delta = copy / "tasks/one.safetensors"
    manifest = read_manifest(delta)
    assert manifest.task is not None
    from engines.manifest import write_manifest

    facts = dataclasses.replace(manifest.task, logit_error=None)
    write_manifest(delta, dataclasses.replace(manifest, parity=None, task=facts))

    document = call("inspect", copy, "--json").document()

    assert document["tasks"][0]["parity"] is None
    assert call("inspect", copy).code == 0


# compare and show


def test_a_task_is_compared_with_its_run_on_images(copy: Path, task_files: TaskFiles) -> None:
    shard = write_shard(copy.with_name("val.npz"))
    words = (task_files.one.text, copy, "--backbone", task_files.backbone, "--data", shard)

    graph = call("compare", *words, "--task", "one", "--json").document()
    assert call("build", copy).code == 0
    engine = call("compare", *words, "--task", "one", "--json").document()
    other = call("compare", *words, "--task", "two", "--json").error()

    (row,) = graph["rows"]
    assert row["stage"] == "one" and row["images"] == 6 and row["accuracy"] is not None
    assert row["same_partner"] == 1.0 and row["failures"] == []
    (row,) = engine["rows"]
    assert row["same_partner"] is None and row["failures"] == []
    assert other["exit_code"] == 7
    assert other["what"].startswith("two drifts from the reference")


def test_a_task_is_compared_with_its_own_export(task_files: TaskFiles, tmp_path: Path) -> None:
    words = (task_files.two.text, "--backbone", task_files.backbone, "-o", tmp_path)
    assert call("export", *words).code == 0

    done = call("compare", tmp_path / "model.onnx", task_files.out, "--task", "two", "--json")

    assert done.code == 0, done.err
    assert done.document()["rows"][0]["relative"] < 1e-5


def test_the_merge_of_a_task_is_drawn(copy: Path, images: list[Path]) -> None:
    graph = call("show", copy, images[0], "--task", "two", "-o", copy / "graph.png", "--json")
    assert call("build", copy).code == 0
    built = call("show", copy, images[0], "--task", "two", "-o", copy / "built.png", "--json")
    other = call("show", copy, images[0], "--task", "one", "-o", copy / "one.png", "--json")

    assert graph.code == 0, graph.err
    assert graph.document()["groups"] == built.document()["groups"]
    assert (copy / "graph.png").read_bytes() == (copy / "built.png").read_bytes()
    assert (copy / "graph.png").read_bytes() != (copy / "one.png").read_bytes()
    assert other.code == 0


# What does nothing with a folder says what does


@pytest.mark.parametrize(
    ("words", "what", "fix"),
    [
        (("export", "{out}", "-o", "x"), "folder of tasks and holds no runs", "inspect"),
        (("deploy", "{out}", "-o", "x"), "folder of tasks and holds no runs", "bundle"),
        (("tasks", "{out}", "-o", "x"), "folder of tasks and holds no runs", "--add"),
        (("quantize", "{out}", "--precision", "fp16"), "are not quantized", "from their runs"),
        (("quantize", "{graph}", "--precision", "fp16"), "are not quantized", "--precision fp16"),
        (("sign", "{out}", "--key", "{image}"), "this is a folder", "bundle"),
        (("show", "{out}", "{image}", "-o", "y.png"), "folder of tasks, not a graph", "inspect"),
        (("show", "{out}", "{image}", "--task", "tow", "-o", "y.png"), "'tow' is not", "'two'"),
        (("compare", "{out}", "{graph}"), "folder of tasks and holds no runs", "--task"),
        (("compare", "{run}", "{out}"), "folder of the tasks one, two", "--task one"),
        (("compare", "{graph}", "{graph}", "--task", "one"), "no folder of tasks "
            "follows", "--task"),
        (("bundle", "{graph}"), "many tasks share this artefact", "fpet-export bundle"),
    ],
    ids=str,
)  # fmt: skip
def test_every_refusal_names_the_command_that_does_it(
    words: tuple[str, ...], what: str, fix: str, task_files: TaskFiles, images: list[Path],
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    places = {
        "{out}": task_files.out, "{graph}": task_files.out / "backbone.merge1.onnx",
        "{run}": task_files.one.text, "{image}": images[0],
    }  # fmt: skip

    error = call(*(places.get(word, word) for word in words), "--json").error()

    assert error["exit_code"] in (2, 3)
    assert what in error["what"]
    assert fix in error["fix"]
    assert not list(tmp_path.iterdir())


def test_a_task_of_other_classes_than_the_reference_is_refused(
    task_files: TaskFiles, tmp_path: Path
) -> None:
    text = "random:test_vit:0"
    words = ("--method", "lora", "--merge-block", "3", "--limit", "1", "-o", tmp_path / "wide")
    assert call("export", text, *words).code == 0

    error = call(
        "compare", tmp_path / "wide/model.onnx", task_files.out, "--task", "one", "--limit", "1",
        "--json",
    ).error()  # fmt: skip

    assert error["exit_code"] in (2, 3)


# tasks --add and --drop


def change(task_files: TaskFiles, out: Path, *words: object, runs: tuple[str, ...] = ()) -> Done:
    return call("tasks", *runs, "--backbone", task_files.backbone, "-o", out, *words, "--json")


def test_a_task_is_added_replaced_and_dropped(
    copy: Path, task_files: TaskFiles, images: list[Path]
) -> None:
    assert call("build", copy).code == 0
    before = hashes(copy)
    third = (f"third={task_files.one.text}",)

    added = change(
        task_files, copy, "--add", "--labels", task_files.place / "labels.txt", runs=third
    )
    again = change(task_files, copy, "--add", runs=third).error()
    replaced = change(task_files, copy, "--add", "--force", runs=third)
    answers = [
        call("predict", copy, "--task", name, *images, "--json").document()["predictions"]
        for name in ("one", "third")
    ]
    dropped = change(task_files, copy, "--drop", "third")

    assert added.code == 0, added.err
    assert [task["name"] for task in added.document()["index"]["tasks"]] == ["one", "two", "third"]
    assert "backbone.merge1.cpu.onnx stays: backbone.merge1.onnx has not changed" in added.err
    assert again["what"] == "the folder holds a task 'third' already"
    assert replaced.code == 0, replaced.err
    found = [[answer["classes"][0]["class"] for answer in task] for task in answers]
    assert found[0] == found[1]
    assert dropped.code == 0, dropped.err
    after = hashes(copy)
    assert set(after) == set(before)
    assert {name for name in after if after[name] != before[name]} <= {"tasks.json", "parity.json"}
    parity = json.loads((copy / "parity.json").read_text())
    assert parity == json.loads((task_files.out / "parity.json").read_text())


def test_a_task_that_drifts_is_not_added(
    copy: Path, task_files: TaskFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_delta, before = task_delta.write_delta, hashes(copy)

    def drift(path: Path, *, single: dict[str, np.ndarray], **rest: Any) -> None:
        single = single | {"head.weight": single["head.weight"] * np.float32(1.01)}
        write_delta(path, single=single, **rest)

    monkeypatch.setattr("fpet_export.tasks.file.write_delta", drift)
    error = change(task_files, copy, "--add", runs=(f"third={task_files.one.text}",)).error()

    assert error["exit_code"] == 7
    assert error["what"].startswith("third drifts from the reference")
    assert hashes(copy) == before


def test_ctrl_c_changes_nothing(
    copy: Path, task_files: TaskFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*words: Any) -> None:
        raise KeyboardInterrupt

    before = hashes(copy)
    monkeypatch.setattr(verify, "_compare", interrupt)
    done = change(task_files, copy, "--add", runs=(f"third={task_files.one.text}",))

    assert done.code == 130
    assert hashes(copy) == before
    assert not list(copy.glob(".tasks*"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "the following arguments are required: RUN"),
        (("--add",), "the following arguments are required: RUN"),
        (("--drop", "one", "--add"), "--add and --drop cannot be given together"),
        (("--drop", "tow"), "'tow' is not one of the tasks one, two"),
        (("--drop", "one,two"), "no task would be left"),
        (
            ("{run}", "--add", "--html", "page.html"),
            "--html writes the page of a folder that is being written",
        ),
        (
            ("--drop", "one", "--html", "page.html"),
            "--html writes the page of a folder that is being written",
        ),
        (("{run}", "--new-graph"), "every graph of a new folder is new"),
        (
            ("{run}", "--add", "--target", "cpu"),
            "--target cannot change with --add",
        ),
        (("{run}", "--add", "--precision", "fp16"), "cannot change with --add"),
        (("{run}", "--add", "--batch", "2"), "cannot change with --add"),
    ],
    ids=str,
)
def test_contradictions_change_nothing(
    words: tuple[str, ...], said: str, copy: Path, task_files: TaskFiles
) -> None:
    before = hashes(copy)
    run = f"third={task_files.one.text}"

    error = call(
        "tasks", "-o", copy, *(run if w == "{run}" else w for w in words), "--json"
    ).error()

    assert error["exit_code"] == 2
    assert said in error["what"]
    assert hashes(copy) == before


def test_tasks_are_not_added_to_what_is_no_folder_of_them(
    task_files: TaskFiles, tmp_path: Path
) -> None:
    for words in (("--add",), ("--drop", "one")):
        runs = () if "--drop" in words else (task_files.one.text,)
        error = change(task_files, tmp_path, *words, runs=runs).error()
        assert error["exit_code"] == 10
        assert "this is not a folder of tasks" in error["what"]


def test_another_method_gets_a_graph_when_that_is_asked_for(
    task_files: TaskFiles, tmp_path: Path
) -> None:
    one, two = task_files.runs
    assert task_files.tasks("-o", tmp_path, runs=(one,)).code == 0

    refused = change(task_files, tmp_path, "--add", runs=(two,)).error()
    done = change(task_files, tmp_path, "--add", "--new-graph", runs=(two,))

    assert "--new-graph" in refused["fix"]
    assert "backbone.merge1.onnx: has no inputs for adaptformer" in refused["what"]
    assert done.code == 0, done.err
    assert [graph.path.name for graph in check_folder(tmp_path).graphs] == [
        "backbone.merge1.onnx", "backbone.merge1.2.onnx",
    ]  # fmt: skip
    assert "backbone.merge1.2.onnx 0." in done.err
