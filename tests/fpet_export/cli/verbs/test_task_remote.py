"""A folder of tasks on another machine, through a real ssh to a board with a home of its own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from engines.tasks.folder import check_folder
from fpet_export.steps import task_references
from tests.fpet_export.board.ssh_server import Server, needs_sshd, start_quick
from tests.fpet_export.command_line import call
from tests.fpet_export.tasks.task_files import TaskFiles

pytestmark = needs_sshd
QUICK = ("--rounds", 2, "--seconds", 0.05, "--allow-noise")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    yield from start_quick(tmp_path_factory.mktemp("sshd"))


@pytest.fixture
def copy(task_files: TaskFiles, tmp_path: Path) -> Path:
    return Path(shutil.copytree(task_files.out, tmp_path / "copy"))


def words(server: Server) -> tuple[object, ...]:
    return "--remote", "board", "--ssh-config", server.config(shared=True)


def left(server: Server) -> set[str]:
    return {path.name for path in server.home.iterdir()}


def test_every_graph_is_built_there_and_every_task_is_checked(copy: Path, server: Server) -> None:
    done = call("build", copy, *words(server), "--json")
    again = call("build", copy, *words(server), "--json").error()

    assert done.code == 0, done.err
    rows = done.document()["parity"]["rows"]
    assert [row["stage"] for row in rows] == ["one", "two"]
    assert all(row["failures"] == [] for row in rows)
    assert check_folder(copy).graphs[0].engine == copy / "backbone.merge1.cpu.onnx"
    assert again["what"] == "backbone.merge1.cpu.onnx exists already"
    assert left(server) == set()


def test_a_task_that_answers_otherwise_there_brings_nothing_back(
    copy: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = task_references._run

    def other(*given: object) -> object:
        logits, margin = run(*given)  # type: ignore[arg-type]
        return logits * 1.01, margin

    monkeypatch.setattr(task_references, "_run", other)
    error = call("build", copy, *words(server), "--json").error()

    assert error["exit_code"] == 7
    assert "on board: one drifts from the reference" in error["what"]
    assert not list(copy.glob("*.cpu.onnx"))
    assert left(server) == set()


def test_tasks_are_measured_there(copy: Path, server: Server, tmp_path: Path) -> None:
    out = tmp_path / "bench.json"

    done = call("bench", copy, "--against", "two", *words(server), *QUICK, "-o", out, "--json")
    one = call("bench", copy, "--task", "two", *words(server), *QUICK, "--json")

    assert done.code == 0, done.err
    document = done.document()
    assert json.loads(out.read_text()) == document
    assert document["baseline"] == "two"
    assert {contender["name"] for contender in document["contenders"]} == {"one", "two"}
    for contender in document["contenders"]:
        assert contender["artefact"]["file"] == "backbone.merge1.cpu.onnx"
        assert float(contender["runtime"]["switch_ms"]) > 0
    assert [contender["name"] for contender in one.document()["contenders"]] == ["two"]
    assert left(server) == set()
