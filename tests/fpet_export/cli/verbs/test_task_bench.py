"""`bench FOLDER`: tasks as contenders, and what a switch takes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from benchmarks import read_measurement
from benchmarks.task_switch import switch_times_ns
from tests.fpet_export.command_line import Done, call
from tests.fpet_export.tasks.task_files import TaskFiles

QUICK = ("--rounds", "2", "--seconds", "0.05", "--allow-noise")


def bench(*words: object) -> Done:
    return call("bench", *words, *QUICK)


def test_every_task_is_a_contender(task_files: TaskFiles, tmp_path: Path) -> None:
    out = tmp_path / "bench.json"

    done = bench(task_files.out, "-o", out, "--html", tmp_path / "bench.html", "--json")

    assert done.code == 0, done.err
    found = read_measurement(out)
    assert json.loads(json.dumps(done.document()))["baseline"] == found.baseline == "one"
    assert [result.name for result in found.contenders] == ["one", "two"]
    for result in found.contenders:
        assert result.artefact is not None and result.artefact.file == "backbone.merge1.onnx"
        assert result.artefact.macs is not None and result.artefact.macs > 0
        assert result.runtime["task"] == result.name
        assert float(result.runtime["switch_ms"]) > 0
    assert "ms to a task whose weights are not in memory" in done.err


def test_the_engine_runs_where_it_was_built(task_files: TaskFiles, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(task_files.out, tmp_path / "copy"))
    assert call("build", copy).code == 0

    done = bench(copy, "--task", "two", "--json")

    (result,) = done.document()["contenders"]
    assert result["name"] == "two"
    assert result["artefact"]["file"] == "backbone.merge1.cpu.onnx"


def test_a_task_is_measured_against_another_or_its_own_export(
    task_files: TaskFiles, tmp_path: Path
) -> None:
    words = (task_files.one.text, "--backbone", task_files.backbone, "-o", tmp_path)
    assert call("export", *words).code == 0
    graph = tmp_path / "model.onnx"

    own = bench(task_files.out, "--task", "one", "--against", graph, "--json").document()
    beside = bench(task_files.out, graph, "--against", "two", "--json").document()

    assert [one["name"] for one in own["contenders"]] == ["model", "one"]
    assert beside["baseline"] == "two"
    assert {one["name"] for one in beside["contenders"]} == {"one", "two", "model"}
    assert "switch_ms" not in beside["contenders"][2]["runtime"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("{out}", "--task", "tow"), "'tow' is not one of the tasks one, two"),
        (("{out}", "{out}"), "tasks of one folder are measured at a time"),
        (("{out}", "--peers", "all"), "peers run the plain model of one export"),
        (("{out}", "--against", "plain"), "the plain model is that of one export"),
        (("{out}", "{graph}", "--remote", "orin"), "measures the tasks of a folder by themselves"),
        (
            ("{out}", "--against", "{graph}", "--remote", "orin"),
            "measures the tasks of a folder by themselves",
        ),
        (("{graph}", "--task", "one"), "backbone.merge1.onnx is not a folder of tasks"),
    ],
    ids=str,
)
def test_what_cannot_be_measured_is_a_sentence(
    words: tuple[str, ...], said: str, task_files: TaskFiles
) -> None:
    places = {"{out}": task_files.out, "{graph}": task_files.out / "backbone.merge1.onnx"}

    error = bench(*(places.get(word, word) for word in words), "--json").error()

    assert error["exit_code"] == 2
    assert said in error["what"]


def test_a_switch_begins_with_weights_that_are_not_there(task_files: TaskFiles) -> None:
    """Every moment of the clock is one later, so that each switch takes exactly one."""
    moments = iter(range(1000))

    found = switch_times_ns(task_files.out, ["two"], repeats=3, clock=lambda: next(moments))

    assert found == {"two": 1}
    assert next(moments) == 6


def test_one_task_has_nothing_to_switch_from(task_files: TaskFiles, tmp_path: Path) -> None:
    done = task_files.tasks("-o", tmp_path, runs=task_files.runs[:1])
    assert done.code == 0, done.err

    assert switch_times_ns(tmp_path, ["one"]) == {}
    measured = bench(tmp_path, "--json")
    assert "switch_ms" not in measured.document()["contenders"][0]["runtime"]
