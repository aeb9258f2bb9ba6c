"""A folder of tasks on its way to a board: packed, signed, unpacked, built and checked there."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calibration.evaluator import evaluator_for
from calibration.merge_evidence import decided
from engines.manifest import read_manifest
from engines.parity.reference_file import read_reference
from engines.tasks.index import FILE, read_index
from engines.transport.bundle import read_bundle
from tests.fpet_export.command_line import LABELS, Done, Exported, call, write_shard
from tests.fpet_export.tasks.task_files import TaskFiles
from tests.fpet_export.unpacked import agent, unpack

needs_ssh = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="needs ssh-keygen")
GRAPH = "backbone.merge1.onnx"


@pytest.fixture(scope="module")
def archive(task_files: TaskFiles, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    """The bundle of both tasks; one of them answers on labelled images."""
    place = tmp_path_factory.mktemp("bundle")
    out = place / "many.bundle.tar"
    data = f"two={write_shard(place / 'two.npz')}"
    done = call("bundle", task_files.out, "--data", data, "-o", out, "--json")
    assert done.code == 0, done.err
    return out, done


@pytest.fixture
def board(archive: tuple[Path, Done], tmp_path: Path) -> Path:
    return unpack(archive[0], tmp_path / "board")


@pytest.fixture(scope="module")
def for_rtx(task_files: TaskFiles, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both tasks with a graph each, of fixed extents."""
    out = tmp_path_factory.mktemp("rtx") / "out"
    done = task_files.tasks("-o", out, "--target", "rtx")
    assert done.code == 0, done.err
    return out


# bundle


def test_the_whole_folder_is_in_the_bundle(
    archive: tuple[Path, Done], task_files: TaskFiles, board: Path
) -> None:
    document = archive[1].document()

    assert set(document["files"]) == {
        "README.txt", "agent.pyz", "tasks.json", GRAPH, "backbone.merge1.manifest.json",
        *(f"tasks/{name}.{end}" for name in ("one", "two")
          for end in ("safetensors", "manifest.json", "check.npz")),
    }  # fmt: skip
    for file in (FILE, GRAPH, "tasks/one.safetensors"):
        assert (board / file).read_bytes() == (task_files.out / file).read_bytes()
    readme = (board / "README.txt").read_text()
    assert "2 tasks on one backbone" in readme
    assert "python3 agent.pyz predict --task one IMAGE" in readme
    assert "adaptformer + refinement + head, 5 classes" in readme
    assert max(map(len, readme.splitlines())) <= 100


def test_the_same_folder_gives_the_same_bundle(
    archive: tuple[Path, Done], task_files: TaskFiles, tmp_path: Path
) -> None:
    data = f"two={archive[0].with_name('two.npz')}"

    done = call("bundle", task_files.out, "--data", data, "-o", tmp_path / "again.bundle.tar")

    assert done.code == 0, done.err
    assert (tmp_path / "again.bundle.tar").read_bytes() == archive[0].read_bytes()


def test_it_lies_beside_the_folder_and_engines_stay_at_home(
    task_files: TaskFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = Path(shutil.copytree(task_files.out, tmp_path / "copy"))
    assert call("build", copy).code == 0
    monkeypatch.chdir(copy)

    done = call("bundle", ".", "--json")

    assert done.code == 0, done.err
    assert done.document()["bundle"] == str(tmp_path / "copy.bundle.tar")
    assert not any("cpu" in name for name in done.document()["files"])


def test_graphs_of_fixed_extents_travel_to_any_target_that_reads_them(
    for_rtx: Path, tmp_path: Path
) -> None:
    name = "jetson-orin-nano-8gb@jp6.2"
    out = tmp_path / "jetson.bundle.tar"

    done = call("bundle", for_rtx, "--target", name, "-o", out, "--json")
    unpacked = call("verify", out, "--unpack", tmp_path / "board", "--json")

    assert done.code == 0, done.err
    assert done.document()["target"] == name
    files = set(done.document()["files"])
    assert {"backbone.merge1.lora.base.safetensors", "backbone.merge1.adaptformer.onnx"} <= files
    assert "2 tasks on one backbone for jetson-orin-nano-8gb@jp6.2" in unpacked.err
    there, here = read_index(tmp_path / "board"), read_index(for_rtx)
    assert (there.target, here.target) == (name, "rtx")
    assert there.tasks == here.tasks and there.structures == here.structures


def test_open_extents_are_refused_for_a_plan(task_files: TaskFiles, tmp_path: Path) -> None:
    out = tmp_path / "x.bundle.tar"

    error = call("bundle", task_files.out, "--target", "rtx", "-o", out, "--json").error()

    assert error["exit_code"] == 2
    assert "takes tasks of any rank" in error["what"]
    assert not out.exists()
    _, _, again = error["fix"].partition(": fpet-export ")
    done = call(*shlex.split(again))  # as pasted
    written = Path(done.document()["folder"])
    suited = call("bundle", written, "--target", "rtx", "-o", out, "--json")
    shutil.rmtree(written)
    assert (done.code, suited.code) == (0, 0), suited.err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("{empty}",), 10, "this is not a folder of tasks"),
        (("{graph}",), 2, "many tasks share this artefact"),
        (("{out}", "--data", "three={empty}"), 2, "'three' is not one of the tasks one, two"),
        (("{out}", "--data", "absent"), 3, "no such file for --data"),
        (("{out}", "--target", "jetson"), 2, "'jetson' is not one of"),
        (("{out}", "--key", "absent"), 3, "no such file for --key"),
    ],
    ids=str,
)
def test_what_cannot_be_bundled_is_a_sentence(
    words: tuple[str, ...], code: int, said: str, task_files: TaskFiles, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    places = {
        "{empty}": tmp_path / "empty", "{out}": task_files.out, "{graph}": task_files.out / GRAPH,
    }  # fmt: skip
    out = tmp_path / "x.bundle.tar"

    typed = [word.replace("three={empty}", f"three={tmp_path}") for word in words]
    done = call("bundle", *(places.get(word, word) for word in typed), "-o", out, "--json")

    assert done.code == code, done.out
    assert said in done.error()["what"]
    assert not out.exists()


def test_labels_beyond_a_task_s_classes_are_refused(task_files: TaskFiles, tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "many.npz", labels=np.full(6, 9))

    error = call("bundle", task_files.out, "--data", f"two={shard}", "--json").error()

    assert error["exit_code"] in (2, 3)
    assert not task_files.out.with_name("out.bundle.tar").exists()


@pytest.mark.parametrize("file", [GRAPH, "tasks/two.safetensors", "tasks/one.manifest.json"])
def test_a_damaged_folder_is_not_bundled(file: str, task_files: TaskFiles, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(task_files.out, tmp_path / "copy"))
    content = bytearray((copy / file).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / file).write_bytes(content)

    for words in (("bundle", copy), ("verify", copy)):
        assert call(*words, "--json").error()["exit_code"] == 10
    assert not list(tmp_path.glob("*.tar"))


def test_single_graphs_take_one_set_of_images(exported: Exported, tmp_path: Path) -> None:
    out, shard = tmp_path / "x.bundle.tar", write_shard(tmp_path / "val.npz")

    done = call("bundle", exported.graph, "--data", f"two={shard}", "-o", out, "--json")

    assert done.error()["what"] == "'two' is not one of the tasks model.onnx"


def test_each_answer_says_how_sure_its_match_was(
    task_files: TaskFiles, board: Path, tmp_path: Path
) -> None:
    """As that of the task's own export says it."""
    for name, run, count in (("one", task_files.one, 4), ("two", task_files.two, 6)):
        found = read_reference(board / f"tasks/{name}.check.npz")
        words = (run.text, "--backbone", task_files.backbone, "-o", tmp_path / name)
        assert call("export", *words).code == 0
        graph = tmp_path / name / "model.onnx"
        single = evaluator_for(graph, read_manifest(graph), found.images).reference

        assert found.outputs.margin is not None and single.outputs.margin is not None
        assert found.sure_images() == count
        np.testing.assert_allclose(found.outputs.margin, single.outputs.margin, atol=1e-5)
        np.testing.assert_allclose(found.outputs.logits, single.outputs.logits, atol=1e-4)


def test_a_task_of_which_nothing_can_be_judged_is_named(
    task_files: TaskFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tied(*evidence: Any) -> tuple[np.ndarray, np.ndarray]:
        match, won = decided(*evidence)
        return match, np.zeros_like(won)

    monkeypatch.setattr("fpet_export.steps.task_references.decided", tied)
    done = call("bundle", task_files.out, "-o", tmp_path / "x.bundle.tar")

    assert done.code == 0, done.err
    assert "no image has a sure match for one, two" in done.err


# sign and verify


@needs_ssh
def test_a_signed_bundle_of_tasks_is_unpacked(
    archive: tuple[Path, Done], task_files: TaskFiles, tmp_path: Path
) -> None:
    key, bundle = tmp_path / "key", Path(shutil.copy(archive[0], tmp_path))
    words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)]
    subprocess.run(words, check=True)
    (tmp_path / "allowed").write_text(f"anna {key.with_suffix('.pub').read_text()}")

    signed = call("sign", bundle, "--key", key)
    done = call(
        "verify", bundle, "--signers", tmp_path / "allowed", "--unpack", tmp_path / "b", "--json"
    )
    folder = call("sign", task_files.out, "--key", key, "--json")
    asked = call("verify", task_files.out, "--signers", tmp_path / "allowed", "--json")

    assert signed.code == 0, signed.err
    assert done.document()["signer"] == "anna"
    assert done.document()["artefact"] == str(tmp_path / "b")
    assert f"fpet-export inspect {tmp_path / 'b'}" in done.err
    assert read_index(tmp_path / "b").names == ("one", "two")
    assert f"fpet-export bundle {task_files.out} --key KEY" in folder.error()["fix"]
    assert "no signature of its own" in asked.error()["what"]


def test_a_folder_and_its_engines_are_verified(task_files: TaskFiles, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(task_files.out, tmp_path / "copy"))
    assert call("build", copy).code == 0

    done = call("verify", copy, "--json")
    engine = copy / "backbone.merge1.cpu.onnx"
    content = bytearray(engine.read_bytes())
    content[100] ^= 1
    engine.write_bytes(content)

    assert done.document()["tasks"] == ["one", "two"]
    assert "fits: backbone.merge1.cpu.onnx, built from backbone.merge1.onnx" in done.err
    assert call("verify", copy, "--json").error()["exit_code"] == 10


# build


def test_build_makes_the_engine_of_every_graph(for_rtx: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(for_rtx, tmp_path / "copy"))

    lines = call("build", copy, "--print-trtexec")
    wrong = call("build", copy, "--target", "cpu", "--json").error()
    named = call("build", copy, "-o", tmp_path / "x.plan", "--json").error()

    assert len(lines.out.splitlines()) == 2
    assert wrong["what"] == "this folder of tasks is for rtx, and uses no engine of cpu"
    assert "engines lie beside their graphs" in named["fix"]
    graph = copy / read_index(copy).structures[0].graph.file
    assert call("build", graph, "--print-trtexec").out == lines.out.splitlines(True)[0]


def test_an_engine_that_exists_stops_a_build_before_it_begins(
    task_files: TaskFiles, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(task_files.out, tmp_path / "copy"))
    (copy / "backbone.merge1.cpu.onnx").write_bytes(b"mine")

    error = call("build", copy, "--json").error()

    assert error["what"] == "backbone.merge1.cpu.onnx exists already"
    assert call("build", copy, "--force").code == 0


# The board


def test_a_board_builds_checks_and_predicts(
    board: Path, images: list[Path], task_files: TaskFiles
) -> None:
    before = agent(board, "check")
    built = agent(board, "build")
    checked = agent(board, "check", "--json")
    one = agent(board, "check", "--task", "two", "--json")
    found = agent(board, "predict", "--task", "two", *images, "--json")
    here = call("predict", task_files.out, "--task", "two", *images, "--json")
    unsaid = agent(board, "predict", *images)

    assert before.code == 3
    assert "build it: python3 agent.pyz build" in before.err
    assert built.code == 0, built.err
    assert checked.code == 0, checked.err
    rows = checked.document()["parity"]["rows"]
    assert [(row["stage"], row["images"]) for row in rows] == [("one", 4), ("two", 6)]
    assert [row["accuracy"] is None for row in rows] == [True, False]
    assert [row["stage"] for row in one.document()["parity"]["rows"]] == ["two"]
    answers = [
        [answer["classes"][0]["name"] for answer in done.document()["predictions"]]
        for done in (found, here)
    ]
    assert answers[0] == answers[1]
    assert set(answers[0]) <= set(LABELS)
    assert unsaid.code == 2
    assert "say which one: --task one" in unsaid.err

    with np.load(board / "tasks/one.check.npz") as content:
        arrays = dict(content)
    arrays["margin"][0] = 0
    np.savez(board / "tasks/one.check.npz", **arrays)
    done = agent(board, "check", "--json")
    rows = done.document()["parity"]["rows"]
    assert [(row["stage"], row["images"], row["judged"]) for row in rows] == [
        ("one", 4, 3),
        ("two", 6, 6),
    ]
    assert "one: 3 of 4 judged: the match of the others is not certain" in done.err


def test_a_task_that_answers_otherwise_is_found(board: Path) -> None:
    """The weights of one task under the check file of the other, as far as both are whole."""
    assert agent(board, "build").code == 0
    one, two = board / "tasks/one.check.npz", board / "tasks/two.check.npz"
    content = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(content)

    done = agent(board, "check", "--json")

    assert done.code == 7
    assert done.error()["what"].startswith("one drifts from the reference")


def test_checks_that_are_absent_or_meant_for_others_are_a_sentence(
    board: Path, engine: Path, task_files: TaskFiles, tmp_path: Path
) -> None:
    assert agent(board, "build").code == 0
    (board / "tasks/one.check.npz").unlink()

    gone = agent(board, "check", "--json").error()
    unknown = agent(board, "check", "--task", "tow", "--json").error()
    expected = call("check", board, "--expect", board / "tasks/two.check.npz", "--json").error()
    single = call("check", engine, "--task", "one", "--json").error()

    assert gone["what"] == "there is no check file of the task 'one'"
    assert unknown["fix"] == "did you mean 'two'?"
    assert expected["what"] == "every task of a folder has its own check file"
    assert single["what"] == "model.cpu.onnx is not a folder of tasks"


def test_another_folder_may_still_be_named(
    board: Path, images: list[Path], task_files: TaskFiles
) -> None:
    done = agent(board, "predict", task_files.out, "--task", "one", *images[:1])

    assert done.code == 0, done.err


def test_doctor_says_what_the_bundle_is_and_whether_it_fits(board: Path) -> None:
    done = agent(board, "doctor", "--json")
    (board / "tasks/two.safetensors").write_bytes(b"x")
    damaged = agent(board, "doctor", "--json")

    found = done.document()["bundle"]
    assert found["tasks"] == ["one", "two"] and found["fits"] is True
    assert "2 tasks on 1 graph" in done.err and "every hash is right" in done.err
    assert "the folder of tasks suits this machine, as cpu" in done.err
    assert damaged.code == 10
    assert damaged.document()["bundle"] == {"fits": False}


def test_a_bundle_for_a_board_does_not_fit_a_workstation(for_rtx: Path, tmp_path: Path) -> None:
    out = tmp_path / "j.bundle.tar"
    assert call("bundle", for_rtx, "--target", "jetson-orin-nano-8gb", "-o", out).code == 0
    assert call("verify", out, "--unpack", tmp_path / "b").code == 0

    done = agent(tmp_path / "b", "doctor", "--json")

    assert done.code == 4
    assert done.document()["bundle"]["fits"] is False
    assert "this is not a Jetson" in done.err
    assert json.loads((tmp_path / "b" / FILE).read_text())["target"].startswith("jetson-orin-nano")
    assert len(read_bundle(out).names("check")) == 2
