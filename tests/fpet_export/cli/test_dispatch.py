"""The contract: help with numpy alone, JSON, exit codes, interrupts, nothing overwritten."""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from engines import errors, registry
from engines.errors import FpetError
from fpet_export import __version__
from fpet_export.cli import dispatch, verbs
from fpet_export.graph import large_weights
from tests.engines.exit_codes import EXIT_CODES
from tests.fpet_export.command_line import Exported, call, write_files

VERBS = registry.available(verbs)

# Every import but the standard library, numpy and ours fails, as where nothing else is installed.
NUMPY_ALONE = """
import sys
ALLOWED = {*sys.stdlib_module_names, "numpy", "fpet_export", "calibration", "engines", "benchmarks"}
class Bare:
    def __init__(self, finder): self.finder = finder
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ALLOWED:
            return self.finder.find_spec(name, path, target)
sys.meta_path = [Bare(finder) for finder in sys.meta_path]
from fpet_export.cli.dispatch import main
"""


def bare(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", NUMPY_ALONE + program], capture_output=True, text=True, timeout=120
    )


def test_the_help_of_every_verb_needs_numpy_alone() -> None:
    done = bare(
        f"for verb in {VERBS!r}:\n"
        "    try:\n"
        "        main([verb, '--help'])\n"
        "    except SystemExit as end:\n"
        "        assert end.code == 0, verb\n"
        "try:\n"
        "    main(['--help'])\n"
        "except SystemExit as end:\n"
        "    assert end.code == 0\n"
        "absent = [n for n in ('torch', 'timm', 'onnx', 'onnxruntime', 'rich', 'yaml', 'PIL')"
        " if n in sys.modules]\n"
        "assert not absent, absent\n"
    )

    assert done.returncode == 0, done.stderr
    for verb in VERBS:
        assert f"usage: fpet-export {verb} " in done.stdout
        assert f"\n    {verb} " in done.stdout.rpartition("usage: fpet-export [-h]")[2]
    assert "exit codes: 0 ok" in done.stdout


def test_targets_need_numpy_alone() -> None:
    done = bare("sys.exit(main(['targets', '--json', '-v']))")

    assert done.returncode == 0, done.stderr
    names = [target["name"] for target in json.loads(done.stdout)["targets"]]
    assert {"cpu", "rtx", "tensorrt", "jetson-orin-nano-8gb"} <= set(names)


def test_one_target_needs_numpy_alone() -> None:
    done = bare("sys.exit(main(['targets', 'jetson-orin-nano-8gb@jp6.0', '--json']))")

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["target"]["opset"] == 17


def test_doctor_needs_numpy_alone_and_says_what_is_missing() -> None:
    done = bare("sys.exit(main(['doctor', '--json']))")

    assert done.returncode == 4, done.stderr
    document = json.loads(done.stdout)
    assert {"torch", "onnx", "onnxruntime", "pillow"} <= set(document["lacking"])
    assert document["packages"]["numpy"] is not None
    assert "pip install 'fpet-export[export]'" in done.stderr
    assert "pip install 'fpet-export[export,cpu]'" in done.stderr.rpartition("next")[2]


@pytest.mark.parametrize(
    "words", [["inspect", "run"], ["export", "run", "-o", "out"], ["deploy", "run", "-o", "out"]]
)
def test_a_verb_without_its_packages_names_the_extra(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    done = bare(f"import os; os.chdir({str(tmp_path)!r}); sys.exit(main({words!r}))")

    assert done.returncode == 4, done.stderr
    assert "is not installed" in done.stderr
    assert "pip install 'fpet-export[export]'" in done.stderr


def test_every_verb_of_the_contract_is_there() -> None:
    assert set(VERBS) >= {
        "inspect", "export", "build", "compare", "bench", "predict", "show", "targets", "doctor",
        "deploy", "quantize", "bundle", "sign", "verify", "check", "tasks",
    }  # fmt: skip


def test_the_help_lists_every_verb_once_under_what_it_is_for() -> None:
    told = call("--help").err + call("--help").out
    listed = told[told.index("verbs:") : told.index("exit codes:")].splitlines()
    headings = [line.strip(" :") for line in listed if re.fullmatch(r"  \S.*:", line)]

    assert headings == list(verbs.VERBS)
    found = [line.split()[0] for line in listed if re.match(r"    \S", line)]
    assert sorted(found) == sorted(VERBS)
    assert found.index("export") < found.index("bench") < found.index("bundle")


def test_version() -> None:
    assert call("--version").out == f"fpet-export {__version__}\n"


# Usage


WRONG = {
    "inspect": [],
    "export": ["run"],
    "build": [],
    "compare": [],
    "bench": ["x.onnx", "--rounds", "0"],
    "predict": ["x.onnx"],
    "quantize": ["x.onnx"],
    "show": ["x.onnx", "x.png"],
    "targets": ["--more"],
    "sweep": ["run"],
    "tasks": ["run"],
    "doctor": ["--more"],
    "deploy": ["run", "--batch", "0"],
    "bundle": [],
    "sign": ["x.onnx"],
    "verify": [],
    "check": [],
    "triton": ["x.onnx"],
    "deepstream": ["x.plan"],
    "estimate": [],
    "report": [],
}


def test_there_is_a_wrong_usage_of_every_verb() -> None:
    assert sorted(WRONG) == VERBS


@pytest.mark.parametrize("verb", VERBS)
def test_wrong_usage_is_told_in_words_and_in_json(verb: str) -> None:
    told, document = call(verb, *WRONG[verb]), call(verb, *WRONG[verb], "--json")

    assert (told.code, document.code) == (2, 2)
    assert told.out == ""
    assert told.err.startswith("✗ error: ")
    assert f"fpet-export {verb} --help" in told.err
    assert document.err == ""
    assert document.error()["class"] == "UsageError"


def test_an_unknown_verb_and_no_verb_are_usage_errors() -> None:
    assert call("exprot").code == 2
    assert "'exprot' is not a verb" in call("exprot").err
    assert "did you mean `fpet-export export`?" in call("exprot").err
    assert call().code == 2


def parse(*words: str) -> argparse.Namespace:
    return dispatch.build_parser().parse_args(["export", "run", "-o", "out", *words])


@pytest.mark.parametrize(
    ("text", "batch"), [("1", 1), ("64", 64), ("dyn:1-8", (1, 8)), ("dyn:2-64", (2, 64))]
)
def test_batch(text: str, batch: object) -> None:
    assert parse("--batch", text).batch == batch


@pytest.mark.parametrize(
    ("text", "size"),
    [("224", (224, 224)), ("224x224", (224, 224)), ("16x32", (16, 32))],
)
def test_image(text: str, size: object) -> None:
    assert parse("--image", text).image == size


@pytest.mark.parametrize(("text", "block"), [("0", 0), ("11", 11), ("none", "none")])
def test_merge_block(text: str, block: object) -> None:
    assert parse("--merge-block", text).merge_block == block


@pytest.mark.parametrize(
    ("option", "text"),
    [
        *(("--batch", text) for text in ("0", "-1", "1.5", "", "dyn:", "dyn:0-4", "dyn:8-1")),
        *(("--batch", text) for text in ("dyn:4-4", "dyn:1", "dyn:1-8x", "1-8")),
        *(("--image", text) for text in ("", "x", "16x", "x16", "16x16x3", "-16", "16 x 16")),
        *(("--merge-block", text) for text in ("", "-1", "last", "None", "1.0")),
        *(("--limit", text) for text in ("0", "-1", "all")),
        ("--bit", "one"),
        ("--input", "int8"),
        ("--ties", "sigmoid"),
        ("--normalisation", "cifar"),
    ],
)
def test_wrong_values_are_refused_by_name(option: str, text: str) -> None:
    done = call("export", "run", "-o", "out", f"{option}={text}", "--json")

    assert done.code == 2
    assert option in done.error()["what"]


# Exit codes


def subclasses(kind: type[FpetError]) -> list[type[FpetError]]:
    return [kind, *(deeper for below in kind.__subclasses__() for deeper in subclasses(below))]


@pytest.fixture
def behave(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., Any]], None]:
    """Replace what `targets` does."""

    def act(run: Callable[..., Any]) -> None:
        real = dispatch.load_verb

        def load(name: str) -> Any:
            verb = real(name)
            if name != "targets":
                return verb
            return types.SimpleNamespace(**(vars(verb) | {"run": run}))

        monkeypatch.setattr(dispatch, "load_verb", load)

    return act


def test_every_error_class_has_a_known_exit_code() -> None:
    ours = [kind for kind in subclasses(FpetError) if kind.__module__ == errors.__name__]
    assert {kind.__name__: kind.exit_code for kind in ours} == EXIT_CODES


@pytest.mark.parametrize("name", EXIT_CODES)
def test_an_error_ends_with_the_code_of_its_class(
    name: str, behave: Callable[[Callable[..., Any]], None]
) -> None:
    def fail(options: argparse.Namespace, console: object) -> None:
        raise getattr(errors, name)("the fact", where="the place", fix="the cure")

    behave(fail)
    told, document = call("targets", "-q"), call("targets", "--json")

    assert told.code == document.code == EXIT_CODES[name]
    assert told.err == "✗ error: the fact\n  where: the place\n  fix:   the cure\n"
    assert told.out == ""
    assert document.error() == {
        "class": name,
        "exit_code": EXIT_CODES[name],
        "what": "the fact",
        "where": "the place",
        "fix": "the cure",
    }


def test_a_bug_of_ours_keeps_its_traceback(behave: Callable[[Callable[..., Any]], None]) -> None:
    def fail(options: argparse.Namespace, console: object) -> None:
        raise RuntimeError("a bug")

    behave(fail)
    with pytest.raises(RuntimeError, match="a bug"):
        call("targets")


# Interrupts


def test_an_interrupt_ends_with_130_in_words_and_in_json(
    behave: Callable[[Callable[..., Any]], None],
) -> None:
    def interrupt(options: argparse.Namespace, console: object) -> None:
        raise KeyboardInterrupt

    behave(interrupt)
    told, document = call("targets"), call("targets", "--json")

    assert told.code == document.code == 130
    assert "interrupted" in told.err
    assert told.out == ""
    assert document.document()["error"]["exit_code"] == 130


def test_an_interrupt_while_the_graph_is_written_leaves_nothing(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(model: onnx.ModelProto, path: Path, weights: large_weights.Weights) -> None:
        path.write_bytes(model.SerializeToString()[:1000])
        raise KeyboardInterrupt

    monkeypatch.setattr(large_weights, "save", half)
    done = call("export", *exported.words, "-o", tmp_path / "out")

    assert done.code == 130
    assert list((tmp_path / "out").iterdir()) == []


def test_sigint_in_the_middle_of_an_export_leaves_nothing(
    exported: Exported, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = [
        sys.executable,
        "-c",
        "from fpet_export.cli.start import run; run()",
        "export",
        *exported.words,
        "-o",
        str(out),
    ]
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell's background job ignores SIGINT, and what it starts would too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if "freeze" in line:  # from here on PyTorch's exporter runs for seconds
                os.kill(process.pid, signal.SIGINT)
                break
        stdout, rest = process.communicate(timeout=120)
    finally:
        process.kill()

    assert process.returncode == 130, rest
    assert "interrupted" in rest
    assert "Traceback" not in rest
    assert stdout == ""
    assert not out.exists() or list(out.iterdir()) == []


def test_files_after_an_option_are_told_to_stand_before_it() -> None:
    done = call("compare", "a.onnx", "--limit", "4", "b.onnx", "--json")

    assert done.code == 2
    assert done.error()["what"] == "unrecognized arguments: b.onnx"
    assert "all files before the options" in done.error()["fix"]
    assert "before" not in call("targets", "--nonsense", "--json").error()["fix"]


# Nothing is overwritten


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("file", ["model.onnx", "model.manifest.json", "parity.json"])
def test_export_replaces_nothing(file: str, exported: Exported, tmp_path: Path) -> None:
    (tmp_path / file).write_text("precious")

    done = call("export", *exported.words, "-o", tmp_path, "--json")

    assert done.code == 2
    assert done.error()["what"] == f"{file} exists already"
    assert "--force" in done.error()["fix"]
    assert snapshot(tmp_path) == {file: b"precious"}


@pytest.mark.parametrize(
    "file",
    [
        "report.html",
        "parity.json",
        "latency.json",
        "merge.png",
        "cpu/model.onnx",
        "cpu/model.cpu.onnx",
    ],
)
def test_deploy_replaces_nothing(file: str, exported: Exported, tmp_path: Path) -> None:
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    path.write_text("precious")

    done = call("deploy", *exported.words, "-o", tmp_path, "--json")

    assert done.code == 2
    assert done.error()["where"] == str(path)
    assert snapshot(tmp_path) == {file: b"precious"}


def test_the_other_verbs_replace_nothing(exported: Exported, tmp_path: Path) -> None:
    precious, image = tmp_path / "precious.png", tmp_path / "cat.png"
    precious.write_text("precious")
    image.write_text("cat")
    graph = exported.graph
    commands: list[tuple[object, ...]] = [
        ("build", graph, "--target", "cpu", "-o", precious),
        ("compare", graph, graph, "-o", precious),
        ("bench", graph, "-o", precious),
        ("bench", graph, "--html", precious),
        ("show", graph, image, "-o", precious),
    ]
    for command in commands:
        done = call(*command, "--json")

        assert done.code == 2, command
        assert done.error()["class"] == "UsageError"
        assert "exists already" in done.error()["what"]
    assert snapshot(tmp_path) == {"precious.png": b"precious", "cat.png": b"cat"}


def test_a_refused_run_writes_nothing(tmp_path: Path) -> None:
    run = write_files(tmp_path, params=False, bit=32)
    out = tmp_path / "out"

    done = call(
        "export", run.text, "--backbone", tmp_path / "backbone.safetensors", "-o", out, "--json"
    )

    assert done.code == 3
    assert done.error()["class"] == "CheckpointError"
    assert "--merge-block" in done.error()["fix"]
    assert not out.exists()


def test_the_table_of_verbs_is_that_of_their_files() -> None:
    listed = [name for group in verbs.VERBS.values() for name in group]

    assert sorted(listed) == registry.available(verbs)


def test_the_help_loads_neither_numpy_nor_a_verb() -> None:
    program = (
        "import sys\n"
        "from fpet_export.cli.dispatch import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print([n for n in sys.modules if n == 'numpy' or n.startswith('fpet_export.cli.verbs.')])"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    assert done.stdout.splitlines()[-1] == "[]", done.stderr
