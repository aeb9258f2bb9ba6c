"""SIGTERM and SIGHUP, as Ctrl-C: hidden folders and children go, and the exit code says which."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fpet_export.board.agent import build_agent

CODES = {"SIGTERM": 143, "SIGHUP": 129, "SIGINT": 130}


@pytest.fixture(autouse=True)
def _hangups_are_heard() -> Iterator[None]:
    """A test run that `nohup` started passes on that SIGHUP is ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


# `targets` writes a file, and a signal arrives when it is half written.
WRITES = """
import os, pathlib, signal, subprocess, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from engines import storage
from fpet_export.cli import start
from fpet_export.cli.verbs import targets
def run(options, console):
    with storage.atomic_path(pathlib.Path("artefact")) as path:
        path.write_text("half")
        assert any(name.startswith(".artefact") for name in os.listdir())
        {act}
    raise AssertionError
targets.run = run
sys.argv = ["fpet-export", "targets", *sys.argv[1:]]
start.run()
"""


def stop(
    act: str, folder: Path, *words: str, before: Callable[[], object] | None = None
) -> subprocess.Popen[str]:
    """Run `targets`, whose middle is `act`, to its end; `before` runs in the new process first."""
    return subprocess.Popen(
        [sys.executable, "-c", WRITES.format(act=act), *words], cwd=folder, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=before,
    )  # fmt: skip


@pytest.mark.parametrize("name", CODES)
def test_a_signal_leaves_nothing_and_its_code(name: str, tmp_path: Path) -> None:
    process = stop(f"os.kill(os.getpid(), signal.{name})", tmp_path)
    out, told = process.communicate(timeout=60)

    assert process.returncode == CODES[name], told
    assert list(tmp_path.iterdir()) == []
    assert out == ""
    assert "Traceback" not in told
    assert "nothing half-written was left behind" in told
    assert name == "SIGINT" or f"stopped by {name}" in told


def test_without_the_handler_a_hidden_folder_would_stay(tmp_path: Path) -> None:
    act = "signal.signal(15, signal.SIG_DFL); os.kill(os.getpid(), 15)"
    process = stop(act, tmp_path)
    process.communicate(timeout=60)

    assert process.returncode == -signal.SIGTERM
    assert len(list(tmp_path.iterdir())) == 1


def test_in_json(tmp_path: Path) -> None:
    process = stop("os.kill(os.getpid(), signal.SIGTERM)", tmp_path, "--json")
    out, told = process.communicate(timeout=60)

    error = json.loads(out)["error"]
    assert error["exit_code"] == process.returncode == 143
    assert error["what"].startswith("stopped by SIGTERM")
    assert told == ""


def test_a_second_signal_does_not_disturb_the_cleaning_up(tmp_path: Path) -> None:
    act = """
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGHUP)"""
    process = stop(act, tmp_path)
    process.communicate(timeout=60)

    assert process.returncode == 143
    assert list(tmp_path.iterdir()) == []


def test_a_child_is_ended(tmp_path: Path) -> None:
    child = "import os, sys, time; os.kill(int(sys.argv[1]), 15); time.sleep(600)"
    act = f"subprocess.run([sys.executable, '-c', {child!r}, str(os.getpid())])"
    process = stop(act, tmp_path)
    process.communicate(timeout=60)  # its stdout is open for as long as the child lives

    assert process.returncode == 143
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("replacement", ["RuntimeError('from C++')", "SystemExit(0)"])
def test_a_library_that_replaces_the_exception_changes_nothing(
    replacement: str, tmp_path: Path
) -> None:
    act = f"""
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except BaseException as error:
            raise {replacement} from error"""
    process = stop(act, tmp_path)
    _, told = process.communicate(timeout=60)

    assert process.returncode == 143
    assert "Traceback" not in told


def test_nohup_is_heeded(tmp_path: Path) -> None:
    act = "os.kill(os.getpid(), signal.SIGHUP); print('on', flush=True); os._exit(0)"
    process = stop(act, tmp_path, before=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    out, _ = process.communicate(timeout=60)

    assert (process.returncode, out) == (0, "on\n")


def test_the_agent_heeds_it_too(tmp_path: Path) -> None:
    agent = tmp_path / "agent.pyz"
    agent.write_bytes(build_agent())
    program = f"import sys; sys.path.insert(0, {str(agent)!r})\n" + WRITES.format(
        act="os.kill(os.getpid(), signal.SIGTERM)"
    ).replace(
        "start.run()",
        "from fpet_export.cli import agent_main, start\n"
        "start.run_process(lambda: agent_main.command)",
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True)

    assert done.returncode == 143, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["agent.pyz"]


# Before the command line is there


def stopped_while_it_loads(
    name: str, folder: Path, program: str, *words: str, swallowed: bool = False
) -> Any:
    """Run a program in which a signal arrives while the command line's own modules are imported.

    With `swallowed` the import makes an ImportError of it, as numpy's own C code does.
    """
    module = folder / "difflib.py"  # `engines.near_names` imports it
    act = f"os.kill(os.getpid(), signal.{name}); import fractions"
    if swallowed:
        act = f"\ntry: {act}\nexcept BaseException: raise ImportError('bad install')"
    module.write_text(f"import os, signal; {act}\n")
    paths = os.pathsep.join([str(folder), *sys.path])
    program = f"import signal; signal.signal(2, signal.default_int_handler); {program}"
    return subprocess.run(
        [sys.executable, "-c", program, "targets", *words],
        env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


START = "from fpet_export.cli.start import run; run()"


@pytest.mark.parametrize("name", CODES)
@pytest.mark.parametrize("as_json", [False, True])
def test_a_signal_in_the_first_moment_is_a_sentence(
    as_json: bool, name: str, tmp_path: Path
) -> None:
    done = stopped_while_it_loads(name, tmp_path, START, *["--json"] * as_json)

    assert done.returncode == CODES[name], done.stderr
    what = "interrupted" if name == "SIGINT" else f"stopped by {name}"
    if as_json:
        error = json.loads(done.stdout)["error"]
        assert (error["exit_code"], done.stderr) == (CODES[name], "")
        assert error["what"] == f"{what}; nothing was begun"
    else:
        assert (done.stderr, done.stdout) == (f"error: {what}; nothing was begun\n", "")


@pytest.mark.parametrize("name", CODES)
def test_a_library_may_make_another_error_of_it(name: str, tmp_path: Path) -> None:
    done = stopped_while_it_loads(name, tmp_path, START, swallowed=True)

    what = "interrupted" if name == "SIGINT" else f"stopped by {name}"
    assert (done.returncode, done.stderr) == (CODES[name], f"error: {what}; nothing was begun\n")


def test_without_it_python_has_a_word_and_a_code_of_its_own(tmp_path: Path) -> None:
    done = stopped_while_it_loads("SIGINT", tmp_path, "from fpet_export.cli import main; main()")

    assert "Traceback" in done.stderr


def test_the_agent_listens_from_the_first_moment(tmp_path: Path) -> None:
    agent = tmp_path / "agent.pyz"
    agent.write_bytes(build_agent())
    program = f"import runpy; runpy.run_path({str(agent)!r}, run_name='__main__')"
    done = stopped_while_it_loads("SIGTERM", tmp_path, program)

    assert (done.returncode, done.stderr) == (143, "error: stopped by SIGTERM; nothing was begun\n")


def test_the_installed_command_begins_there() -> None:
    text = (Path(__file__).resolve().parents[3] / "pyproject.toml").read_text()

    assert 'fpet-export = "fpet_export.cli.start:run"' in text


def test_pytorch_leaves_no_folder_of_its_compiler(tmp_path: Path) -> None:
    program = (
        "import sys; from fpet_export.cli import dispatch as cli, start\n"
        "def main():\n"
        "    import torch._inductor.runtime.cache_dir_utils as utils\n"
        "    assert utils.cache_dir().startswith(sys.argv[1]); return 0\n"
        "cli.main = main; start.run()"
    )
    environment = {key: value for key, value in os.environ.items() if "INDUCTOR" not in key}
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        env={**environment, "TMPDIR": str(tmp_path)}, capture_output=True, text=True,
    )  # fmt: skip

    assert (done.returncode, done.stderr) == (0, "")
    assert list(tmp_path.iterdir()) == []
