"""Files that are absent and outputs that cannot be written are told before torch is loaded."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fpet_export.command_line import Exported, call

HEAVY = ("torch", "timm", "onnx", "onnxruntime", "onnx_graphsurgeon", "PIL", "openvino")


def cold(*words: object) -> tuple[int, dict[str, str], list[str]]:
    """Run a command in a process of its own; return its code, its error, and what was loaded."""
    program = (
        "import sys\n"
        "from fpet_export.cli.dispatch import main\n"
        "code = main(sys.argv[1:])\n"
        f"sys.stderr.write(' '.join(n for n in {HEAVY!r} if n in sys.modules))\n"
        "sys.exit(code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, words), "--json"], capture_output=True, text=True
    )
    return done.returncode, json.loads(done.stdout)["error"], done.stderr.split()


FILES = {
    "run": ("export", "absent", "-o", "OUT"),
    "backbone": ("export", "FILE", "--backbone", "absent.safetensors", "-o", "OUT"),
    "config": ("inspect", "FILE", "--config", "absent.yaml"),
    "labels": ("export", "FILE", "--labels", "absent.txt", "-o", "OUT"),
    "data": ("deploy", "FILE", "--data", "absent/", "-o", "OUT"),
    "graph": ("build", "absent.onnx", "--target", "cpu"),
    "calibration": ("quantize", "FILE", "--precision", "int8", "--calibration", "absent"),
    "bench": ("bench", "FILE", "absent.onnx"),
    "against": ("bench", "FILE", "--against", "absent.onnx"),
    "images": ("predict", "FILE", "absent.png"),
    "image": ("show", "FILE", "absent.png", "-o", "OUT.png"),
    "compare": ("compare", "absent", "FILE"),
    "tasks": ("tasks", "one=absent", "-o", "OUT"),
    "bundle": ("bundle", "absent.onnx"),
    "key": ("sign", "FILE", "--key", "absent"),
    "triton": ("triton", "absent.plan", "-o", "OUT"),
    "deepstream": ("deepstream", "absent.plan", "-o", "OUT"),
    "check": ("check", "FILE", "--expect", "absent.npz"),
}


@pytest.mark.parametrize("name", FILES)
def test_an_absent_file_is_told_at_once(name: str, tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(b"")
    places = {"FILE": file, "OUT": tmp_path / "out", "OUT.png": tmp_path / "out.png"}
    code, error, loaded = cold(*(places.get(word, word) for word in FILES[name]))

    assert code == 3
    assert "absent" in error["where"]
    assert "there is no such" in error["what"]
    assert loaded == []


def test_near_files_are_proposed(tmp_path: Path) -> None:
    (tmp_path / "model.cpu.onnx").write_bytes(b"")
    done = call("predict", tmp_path / "modle.cpu.onnx", "x.png", "--json")

    assert str(tmp_path / "model.cpu.onnx") in done.error()["fix"]


def test_a_run_may_be_named_without_its_ending(exported: Exported, tmp_path: Path) -> None:
    pth, stream = (exported.folder / "run" / f"cifar.{ending}" for ending in ("pth", "bin"))
    assert pth.is_file()
    for file in (pth, stream):
        shutil.copy(file, tmp_path)
    done = call("inspect", tmp_path / "cifar", *exported.words[1:], "--merge-block", "6", "--json")
    assert "there is no such" not in done.out


def test_a_size_is_no_image(exported: Exported) -> None:
    done = call("inspect", *exported.words, "--image", "8x8", "--json")
    assert "there is no such file" not in done.out


OUTPUTS = {
    "a file above": (("export", "RUN", "-o", "FILE/out"), 2),
    "a file as folder": (("export", "RUN", "-o", "FILE"), 2),
    "a folder as file": (("build", "GRAPH", "--target", "cpu", "-o", "FOLDER"), 2),
    "a page as folder": (("bench", "GRAPH", "--html", "FOLDER"), 2),
    "no room": (("export", "RUN", "-o", "/proc/out"), 4),
    "no room beside": (("bundle", "GRAPH", "-o", "/proc/model.bundle.tar"), 4),
    "unpack": (("verify", "GRAPH", "--unpack", "/proc/out"), 4),
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_an_output_that_cannot_be_written_is_told_at_once(name: str, tmp_path: Path) -> None:
    file, graph = tmp_path / "file", tmp_path / "model.onnx"
    file.write_text("precious")
    graph.write_text("")
    words, wanted = OUTPUTS[name]
    texts = [
        word.replace("FILE", str(file)).replace("FOLDER", str(tmp_path))
        .replace("GRAPH", str(graph)).replace("RUN", str(file))
        for word in words
    ]  # fmt: skip
    code, _, loaded = cold(*texts)

    assert code == wanted
    assert loaded == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "model.onnx"]
    assert file.read_text() == "precious"


def test_too_few_rounds_are_told_before_an_engine_is_opened(tmp_path: Path) -> None:
    graph = tmp_path / "model.onnx"
    graph.write_bytes(b"no graph")
    code, error, loaded = cold("bench", graph, "--rounds", "10")

    assert code == 2
    assert "10 rounds" in error["what"]
    assert "20" in error["what"]
    assert loaded == []


@pytest.mark.parametrize(
    ("words", "near"),
    [
        (["export", "run", "--bakcbone", "x", "-o", "o"], "'--backbone'"),
        (["export", "run", "--backbon=x"], "'--backbone'"),
        (["export", "run", "-out", "x"], "'--out'"),
        (["export", "run", "--back", "x"], "'--backbone'"),
        (["quantize", "x", "--precision", "fp61"], "'fp16'"),
        (["quantize", "x", "--precision", "int8", "--preset", "vit-atention"], "'vit-attention'"),
        (["predict", "x", "y", "--provider", "cudaa"], "'cuda'"),
        (["bnech", "x"], "`fpet-export bench`"),
        (["targets", "RTX4090"], "'rtx-4090'"),
        (["targets", "jetson-orin-nano"], "'jetson-orin-nano-4gb' or 'jetson-orin-nano-8gb'"),
    ],
)
def test_a_near_name_is_proposed_and_never_taken(words: list[str], near: str) -> None:
    done = call(*words, "--json")

    assert done.code == 2
    assert near in done.error()["fix"]


@pytest.mark.parametrize(
    "words",
    [
        ("build", "GRAPH", "--target", "cpu", "-o", "GRAPH"),
        ("quantize", "GRAPH", "--precision", "fp16", "-o", "GRAPH"),
        ("quantize", "GRAPH", "--precision", "fp16", "--data", "IMAGE", "-o", "IMAGE"),
        ("show", "GRAPH", "IMAGE", "-o", "IMAGE"),
        ("show", "GRAPH", "IMAGE", "-o", "LINK"),
        ("bench", "GRAPH", "--out", "GRAPH"),
    ],
)
def test_force_never_replaces_what_is_read(words: tuple[str, ...], tmp_path: Path) -> None:
    files = {"GRAPH": tmp_path / "model.onnx", "IMAGE": tmp_path / "cat.png"}
    for file in files.values():
        file.write_bytes(b"mine")
    (tmp_path / "link.png").symlink_to(files["IMAGE"])
    files["LINK"] = tmp_path / "link.png"

    done = call(*(files.get(word, word) for word in words), "--force", "--json")

    assert done.code == 2
    assert "would replace it" in done.error()["what"]
    assert {file.read_bytes() for file in files.values()} == {b"mine"}


def test_two_outputs_are_two_files(tmp_path: Path) -> None:
    graph, out = tmp_path / "model.onnx", tmp_path / "out.json"
    graph.write_bytes(b"")
    done = call("bench", graph, "--html", out, "--out", out, "--json")
    assert done.code == 2
    assert "written twice" in done.error()["what"]


@pytest.mark.parametrize(
    ("words", "where"),
    [
        (("predict", "model.onnx", ""), "behind 'model.onnx'"),
        (("predict", "", "cat.png"), "behind 'predict'"),
        (("compare", "a.onnx", "b.onnx", "--data", ""), "--data"),
        (("compare", "a.onnx", "b.onnx", "--data="), "--data="),
        (("",), "behind ''"),
    ],
)
def test_an_empty_argument_is_not_the_current_folder(words: tuple[str, ...], where: str) -> None:
    done = call(*words, "--json")
    assert done.code == 2
    assert done.error()["what"] == f"an argument is empty: {where}"
    assert done.error()["where"] == where
