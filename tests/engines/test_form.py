"""A graph's form against that of its target, and the command that exports it again."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import Any

import pytest

from engines import form
from engines.errors import InputError
from engines.manifest import Form, Manifest
from engines.targets._lookup import load_target, target_names

COMMAND = (
    "fpet-export", "export", "runs/my run", "--backbone", "b.safetensors", "--target", "cpu",
    "--opset", "20", "-o", "out", "--force", "--batch", "8",
)  # fmt: skip
FOLDED = Form(attention_scale="folded", last_block="class-token", command=COMMAND)
SPLIT = Form(attention_scale="split", last_block="all-tokens", command=COMMAND)


def graph(found: Form | None, **changes: Any) -> Manifest:
    fields: dict[str, Any] = {
        "kind": "graph",
        "file": "model.onnx",
        "inputs": (),
        "outputs": (),
        "precision": "fp32",
        "opset": 20,
        "target": "cpu",
        "weights": "trained",
        "form": found,
    }
    return Manifest(**(fields | changes))


def test_a_graph_for_a_cpu_is_not_one_for_tensorrt() -> None:
    found = form.differences(graph(FOLDED), load_target("rtx"))
    assert [("attention scale" in one, "last block" in one) for one in found] == [
        (True, False),
        (False, True),
    ]


@pytest.mark.parametrize("name", ["jetson-orin-nano-8gb", "tensorrt", "rtx-4090", "rtx"])
def test_targets_of_one_form_share_a_graph(name: str) -> None:
    assert not form.differences(graph(SPLIT, target="rtx"), load_target(name))
    assert form.differences(graph(FOLDED, target="cpu"), load_target(name))


@pytest.mark.parametrize("name", ["cpu", "openvino", "cuda"])
def test_runtimes_on_a_cpu_share_a_graph(name: str) -> None:
    assert not form.differences(graph(FOLDED), load_target(name))


def test_an_older_opset_is_another_form() -> None:
    older = graph(SPLIT, target="tensorrt", opset=17)
    assert [one for one in form.differences(older, load_target("rtx")) if "opset 17" in one]


def test_what_was_chosen_for_the_target_itself_is_its_form() -> None:
    chosen = Form(attention_scale="folded", last_block="class-token")
    assert not form.differences(graph(chosen, target="rtx", opset=17), load_target("rtx"))


def test_a_head_that_reads_every_token_has_one_last_block() -> None:
    pooled = Form(attention_scale="split", last_block="")
    assert not form.differences(graph(pooled, target="x"), load_target("rtx"))


def test_integers_are_written_in_one_of_two_ways() -> None:
    gemm = Form(attention_scale="split", last_block="all-tokens", integers="gemm")
    (found,) = form.differences(graph(gemm, target="x"), load_target("rtx"))
    assert "integer products" in found


def test_nothing_is_said_of_a_graph_of_somebody_elses() -> None:
    foreign = graph(None, target="any")
    assert not form.is_known(foreign)
    for name in target_names():
        place = load_target(name) if not name.startswith("jetson-") else None
        assert place is None or not form.differences(foreign, place)


def test_the_message_holds_the_command_that_exports_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="exported for cpu, not for rtx: its attention") as caught:
        form.require_form(Path("out/model.onnx"), graph(FOLDED), load_target("rtx"))
    line = next(line for line in caught.value.fix.splitlines() if "fpet-export" in line)
    assert shlex.split(line.partition(": ")[2]) == [
        "fpet-export", "export", "runs/my run", "--backbone", "b.safetensors", "--batch", "8",
        "--target", "rtx", "-o", "out-rtx",
    ]  # fmt: skip
    assert "--force-form" in caught.value.fix


def test_the_proposed_folder_is_a_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out-rtx").mkdir()
    command = form.export_command(graph(FOLDED), load_target("rtx"))
    assert command.endswith("--target rtx -o out-rtx-2")


@pytest.mark.parametrize(
    "words",
    [
        ("--target=cpu", "--out=o", "--last-block=class-token"),
        ("-oo", "--target", "cpu", "--last-block", "class-token"),
        ("--out", "o/", "--target", "cpu", "--opset", "21", "--force"),
    ],
)
def test_every_spelling_of_an_option_is_replaced(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = Form(
        attention_scale="folded",
        last_block="class-token",
        command=("fpet-export", "export", "RUN", *words),
    )
    command = form.export_command(graph(found), load_target("rtx"))
    assert command == "fpet-export export RUN --target rtx -o o-rtx"


def test_the_command_runs_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, other = tmp_path / "my project", tmp_path / "other"
    for folder in (home / "out-rtx", other):
        folder.mkdir(parents=True)
    found = dataclasses.replace(FOLDED, folder=str(home))

    monkeypatch.chdir(other)
    command = form.export_command(graph(found), load_target("rtx"))
    assert command.startswith(f"cd '{home}' && fpet-export export 'runs/my run' ")
    assert command.endswith(" -o out-rtx-2")  # what is free there, not here
    monkeypatch.chdir(home)
    assert form.export_command(graph(found), load_target("rtx")).startswith("fpet-export ")
    monkeypatch.chdir(other)
    plain = form.export_command(graph(FOLDED), load_target("rtx"))
    elsewhere = dataclasses.replace(FOLDED, folder=str(tmp_path / "of another machine"))
    assert form.export_command(graph(elsewhere), load_target("rtx")) == plain


@pytest.mark.parametrize("command", [(), ("fpet-export", "tasks", "x", "--add", "-o", "out")])
def test_a_command_that_does_not_write_a_graph_is_not_repeated(command: tuple[str, ...]) -> None:
    found = Form(attention_scale="folded", last_block="class-token", command=command)
    assert form.export_command(graph(found), load_target("rtx")) == (
        "fpet-export export RUN --target rtx -o FOLDER"
    )
