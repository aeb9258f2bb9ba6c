"""A run, a folder or weights where a graph is wanted: what to type instead is said, and runs."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from fpet_export.cli import arguments
from tests.fpet_export.command_line import Exported, call

VERBS = {
    "bench": ("bench", "X"),
    "build": ("build", "X"),
    "bundle": ("bundle", "X"),
    "check": ("check", "X"),
    "deepstream": ("deepstream", "X", "-o", "OUT"),
    "predict": ("predict", "X", "IMG"),
    "quantize": ("quantize", "X", "--precision", "fp16"),
    "show": ("show", "X", "IMG", "-o", "OUT.png"),
    "sign": ("sign", "X", "--key", "IMG"),
    "triton": ("triton", "X", "-o", "OUT"),
    "verify": ("verify", "X"),
}


@pytest.fixture
def places(tmp_path: Path) -> dict[str, Path]:
    """A run, and a folder with a graph, in a folder whose name has to be quoted."""
    home = tmp_path / "it's here"
    for name, file in (("run", "pets.pth"), ("out", "model.onnx")):
        (home / name).mkdir(parents=True)
        (home / name / file).write_bytes(b"")
    image = tmp_path / "x.png"
    image.write_bytes(b"")
    return {
        "RUN": home / "run", "FOLDER": home / "out", "IMG": image, "OUT": tmp_path / "new",
        "OUT.png": tmp_path / "new.png",
    }  # fmt: skip


@pytest.mark.parametrize("verb", VERBS)
def test_a_folder_with_a_graph_leads_to_the_graph(verb: str, places: dict[str, Path]) -> None:
    words = [places.get(word.replace("X", "FOLDER"), word) for word in VERBS[verb]]
    error = call(*words, "--json").error()

    assert error["exit_code"] == 3
    assert (
        error["what"] == f"{places['FOLDER']} is a folder, wanted a file in it or a folder of tasks"
    )
    asked = error["fix"].removeprefix("did you mean ").removesuffix("?")
    assert shlex.split(asked) == [str(places["FOLDER"] / "model.onnx")]


@pytest.mark.parametrize("verb", VERBS)
def test_the_folder_of_a_run_leads_to_its_export(verb: str, places: dict[str, Path]) -> None:
    words = [places.get(word.replace("X", "RUN"), word) for word in VERBS[verb]]
    error = call(*words, "--json").error()

    assert error["exit_code"] == 3
    assert "is the folder of a run" in error["what"]
    assert shlex.join(["fpet-export", "export", str(places["RUN"])]) in error["fix"]


@pytest.mark.parametrize("verb", ["build", "quantize"])
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("backbone.safetensors", "holds weights, wanted a graph"),
        ("pets.pth", "holds weights, wanted a graph"),
        ("photo.png", "is not a graph"),
    ],
)
def test_what_is_no_graph_is_told_before_its_target_is_asked_for(
    verb: str, name: str, said: str, tmp_path: Path
) -> None:
    file = tmp_path / name
    file.write_bytes(b"")
    error = call(*(file if word == "X" else word for word in VERBS[verb]), "--json").error()

    assert (error["exit_code"], said in error["what"]) == (3, True)
    assert "--target" not in error["fix"]


def test_an_empty_folder_keeps_its_own_message(tmp_path: Path) -> None:
    error = call("build", tmp_path, "--json").error()
    assert "this is not a folder of tasks" in error["what"]


@pytest.mark.parametrize("text", ["inf", "nan", "-1", "1e999", "x"])
def test_an_amount_is_finite_and_not_negative(text: str, exported: Exported) -> None:
    for words in (
        ("bench", exported.graph, "--seconds", text),
        ("compare", exported.graph, exported.graph, "--relative", text),
    ):
        error = call(*words, "--json").error()
        assert error["exit_code"] == 2
        assert "is not a finite number from 0" in error["what"]


def test_an_amount_is_read() -> None:
    assert [arguments.amount(text) for text in ("0", "0.5", "1e-4")] == [0, 0.5, 1e-4]


def test_the_same_file_twice_is_told_before_it_is_measured(exported: Exported) -> None:
    error = call("bench", exported.graph, exported.graph, "--json").error()
    assert error["exit_code"] == 2
    assert error["what"] == f"{exported.graph} was given twice"


def test_a_bundle_has_the_name_by_which_verify_knows_it(exported: Exported, tmp_path: Path) -> None:
    error = call("bundle", exported.graph, "-o", tmp_path / "it's.zip", "--json").error()
    assert error["exit_code"] == 2
    assert not list(tmp_path.iterdir())

    proposed = shlex.split(error["fix"])
    assert call("bundle", exported.graph, *proposed, "--json").code == 0
    assert call("verify", proposed[-1], "--json").code == 0
