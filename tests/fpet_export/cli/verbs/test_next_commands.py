"""Commands that are proposed run as they are pasted: real runs, the real parser, odd folders."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from engines.commands import command
from engines.errors import FpetError
from engines.manifest import read_manifest
from engines.targets._lookup import load_target
from fpet_export.cli import dispatch
from fpet_export.cli.arguments_check import refuse_unknown_options
from fpet_export.steps import next_commands
from fpet_export.steps.given_paths import require_files, require_outputs
from tests.fpet_export.command_line import Done, Exported, call, export, pixels_of, write_images

ODD = "a folder's (new)"
PLACEHOLDER = re.compile(r"[A-Z]{3,}(\.\w+)?")


def proposed(done: Done) -> list[list[str]]:
    """Return the words of every `next` line."""
    lines = done.err.splitlines()
    begin = next((i for i, line in enumerate(lines) if line.startswith(" next  ")), len(lines))
    texts = [lines[begin][12:]] if begin < len(lines) else []
    for line in lines[begin + 1 :]:
        if not line.startswith(" " * 12):
            break
        texts.append(line[12:])
    return [shlex.split(text) for text in texts]


def require_runnable(words: list[str]) -> None:
    """Parse a command as the command line does, and check its paths."""
    assert words[0] == "fpet-export", words
    assert not [word for word in words if PLACEHOLDER.fullmatch(word)], words
    parser = dispatch.build_parser()
    refuse_unknown_options(dispatch.parsers_of_verbs(parser)[words[1]], words[2:])
    options = parser.parse_args(words[1:])
    require_files(options.verb, vars(options))
    require_outputs(options.verb, vars(options))


def checked(done: Done) -> dict[str, list[str]]:
    """Check that a command went well and all that it proposes; return that by verb."""
    assert done.code == 0, done.err
    found = proposed(done)
    for words in found:
        require_runnable(words)
    return {words[1]: words[1:] for words in found}


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A run whose paths need quotes, with a folder of images."""
    folder = tmp_path_factory.mktemp("next") / ODD
    folder.mkdir()
    write_images(folder / "my images", pixels_of(3))
    return export(folder)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_placeholder_or_an_absent_file_would_be_seen() -> None:
    for words in (
        ["fpet-export", "predict", "model.onnx", "IMAGE"],
        ["fpet-export", "build", "GRAPH.onnx", "--target", "cpu"],
    ):
        with pytest.raises(AssertionError):
            require_runnable(words)
    with pytest.raises(FpetError, match="there is no such file"):
        require_runnable(["fpet-export", "build", "absent.onnx", "--target", "cpu"])
    with pytest.raises(FpetError, match="unrecognized"):
        require_runnable(["fpet-export", "targets", "--nonsense"])


def test_a_run_is_led_to_its_engine(odd: Exported, tmp_path: Path) -> None:
    """Each proposal is run in turn: inspect, export, build and show, bundle, verify."""
    data = odd.folder / "my images"
    exports = checked(call("inspect", *odd.words))["export"]
    out = Path(exports[exports.index("-o") + 1])
    assert call(*exports, "--limit", "1", "-q").code == 0
    again = checked(call("inspect", *odd.words))["export"]
    assert again[again.index("-o") + 1] == "out-2", "out is there already"

    done = call("export", *odd.words, "-o", tmp_path / ODD, "--data", data, "--limit", "1")
    found = checked(done)
    assert set(found) == {"build", "show"}
    assert call(*found["show"], "-q").code == 0
    built = call(*found["build"])
    assert list(checked(built)) == ["bench"]
    assert out.is_dir()

    bundled = call("bundle", tmp_path / ODD / "model.onnx", "--limit", "1")
    verified = checked(call(*checked(bundled)["verify"]))
    assert verified == {}
    board = tmp_path / "board 1"
    unpacked = call("verify", bundled.out.strip(), "--unpack", board)
    assert call(*checked(unpacked)["check"]).code == 0
    assert list(checked(call("verify", board))) == ["doctor"]


def test_without_images_no_image_is_made_up(odd: Exported, tmp_path: Path) -> None:
    done = call("export", *odd.words, "-o", tmp_path / "out", "--limit", "1")
    assert list(checked(done)) == ["build"]


def test_what_merges_nothing_is_not_shown(odd: Exported, tmp_path: Path) -> None:
    out = tmp_path / "plain"
    words = ("random:vit_tiny_patch16_224:0", "--merge-block", "none", "--image", "32x32")
    done = call("export", *words, "-o", out, "--data", odd.folder / "my images", "--limit", "1")

    assert done.code == 0, done.err
    assert list(checked(done)) == ["build"]


@pytest.mark.parametrize("target", ["jetson-orin-nano-8gb", "tensorrt", "a10"])
def test_what_cannot_be_built_here_is_bundled(
    target: str, odd: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = load_target(target)
    monkeypatch.setattr(next_commands, "_has_the_gpu", lambda target: False)
    here = next_commands.build_or_bundle(odd.graph, place)
    assert shlex.split(here)[1] == "bundle"
    require_runnable(shlex.split(here))

    monkeypatch.setattr(next_commands, "_has_the_gpu", lambda target: True)
    monkeypatch.setattr("importlib.util.find_spec", lambda module: object())
    assert shlex.split(next_commands.build_or_bundle(odd.graph, place))[1] == "build"


def test_a_plan_is_not_measured_where_it_does_not_run(
    odd: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dataclasses

    manifest = dataclasses.replace(read_manifest(odd.graph), kind="engine", target="tensorrt")
    monkeypatch.setattr(next_commands, "_has_the_gpu", lambda target: False)
    assert not next_commands.runs_here(manifest)
    assert next_commands.runs_here(dataclasses.replace(manifest, target="cpu"))


def test_targets_and_doctor_propose_what_runs() -> None:
    assert checked(call("targets"))["targets"] == ["targets", "jetson-orin-nano-8gb"]
    for name in ("cpu", "rtx", "jetson-orin-nano-8gb", "h100"):
        assert "export" in checked(call("targets", name))
    assert set(checked(call("doctor"))) <= {"targets"}


def test_the_trial_of_a_target_can_be_exported(tmp_path: Path) -> None:
    words = checked(call("targets", "cpu"))["export"]
    done = call(*words, "--limit", "1")

    assert done.code == 0, done.err
    assert "build" in checked(done)


def test_a_name_that_is_taken_is_not_proposed(tmp_path: Path) -> None:
    picture = tmp_path / "merge.png"
    assert next_commands.free(picture) == picture
    picture.write_bytes(b"")
    assert next_commands.free(picture) == tmp_path / "merge-2.png"
    (tmp_path / "merge-2.png").write_bytes(b"")
    assert next_commands.free(picture) == tmp_path / "merge-3.png"


def test_words_are_quoted() -> None:
    words = ("show", Path("a b/it's.onnx"), "$HOME;*.png", "-o", 'a"b.png')
    assert shlex.split(command(*words)) == ["fpet-export", *map(str, words)]


def test_a_folder_of_tasks_proposes_what_runs(odd: Exported, tmp_path: Path) -> None:
    run, *backbone = odd.words
    folder = tmp_path / "all tasks"
    images = odd.folder / "my images"
    done = call("tasks", f"one={run}", *backbone, "-o", folder, "--limit", "1", "--data", images)

    found = checked(done)
    assert set(found) == {"build", "predict"}
    assert call(*found["predict"], "-q").code == 0
    assert set(checked(call("inspect", folder))) == {"bench"}
    assert set(checked(call("verify", folder))) == {"inspect"}
    assert set(checked(call(*found["build"]))) == {"bench"}


def test_deploy_proposes_what_runs(odd: Exported, tmp_path: Path) -> None:
    done = call(
        "deploy", *odd.words, "-o", tmp_path / "all of it", "--data", odd.folder / "my images",
        "--limit", "1", "--no-bench",
    )  # fmt: skip

    found = checked(done)
    assert set(found) == {"predict", "bench", "show"}
    assert call(*found["predict"], "-q").code == 0
    assert call(*found["show"], "-q").code == 0
