"""Standard streams that are closed, full, unread or in ASCII: one sentence and a known code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fpet_export.board.agent import build_agent

PROGRAM = "import sys; sys.argv[0] = 'fpet-export'; from fpet_export.cli.start import run; run()"
COMMANDS = (["targets"], ["targets", "--json"], ["--help"])


def shell(redirection: str, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command behind the shell's redirections of its streams."""
    return subprocess.run(
        ["sh", "-c", f'exec "$@" {redirection}', "sh", sys.executable, "-c", PROGRAM, *words],
        capture_output=True, text=True, timeout=120, env=os.environ | environment,
        encoding="latin-1",
    )  # fmt: skip


def unread(*words: str) -> tuple[int, str]:
    """Run a command whose stdout is closed by its reader; return the exit code and stderr."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    told = process.stderr.read().decode()
    process.stderr.close()
    return process.wait(timeout=120), told


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_reader_that_has_gone_ends_it_quietly(words: list[str]) -> None:
    code, told = unread(*words)

    assert code == 141
    assert "Traceback" not in told
    assert "Exception ignored" not in told
    assert "error" not in told


def test_a_result_that_is_read_ends_with_0() -> None:
    assert shell("", "targets", "--json").returncode == 0


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_stdout_is_one_sentence(words: list[str], unbuffered: str) -> None:
    done = shell(">/dev/full", *words, PYTHONUNBUFFERED=unbuffered)

    assert done.returncode == 4
    assert "the result cannot be printed: No space left on device\n  where: stdout" in done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.parametrize("words", [["targets"], ["targets", "--json"], ["--help"]], ids=" ".join)
def test_a_closed_stdout_is_one_sentence(words: list[str]) -> None:
    done = shell(">&-", *words)

    assert done.returncode == 4
    assert "the result cannot be printed: it is closed" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_error_in_json_that_stdout_does_not_take_is_told_to_people() -> None:
    done = shell(">/dev/full", "targets", "cpuu", "--json")

    assert done.returncode == 2
    assert "did you mean 'cpu'?" in done.stderr


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full", "<&-", "2>&- <&-"])
def test_without_stderr_or_stdin_the_result_is_the_same(redirection: str) -> None:
    done, wrong = shell(redirection, "targets"), shell(redirection, "targets", "cpuu")

    assert (done.returncode, wrong.returncode) == (0, 2)
    assert "jetson-orin-nano-8gb" in done.stdout


def test_with_all_streams_closed_the_code_tells() -> None:
    assert shell(">&- 2>&- <&-", "targets").returncode == 4
    assert shell(">&- 2>&- <&-", "targets", "cpuu").returncode == 2


def test_a_file_does_not_get_the_number_of_a_closed_stream(tmp_path: Path) -> None:
    """Else what C libraries print on stderr would be written into it."""
    program = (
        "import os\n"
        "from fpet_export.cli import streams\n"
        "streams.prepare()\n"
        f"file = open({str(tmp_path / 'artefact')!r}, 'wb')\n"
        "os.write(2, b'a warning')\n"
        "file.write(b'bytes')\n"
    )
    command = ["sh", "-c", 'exec "$@" 2>&-', "sh", sys.executable, "-c", program]
    done = subprocess.run(command, check=False)

    assert done.returncode == 0
    assert (tmp_path / "artefact").read_bytes() == b"bytes"


def test_a_python_without_streams_runs() -> None:
    program = (
        "import sys\n"
        "from fpet_export.cli.dispatch import main\n"
        "sys.stderr = None\n"
        "assert main(['targets', 'cpu']) == 0\n"
        "assert main(['targets', 'cpuu']) == 2\n"
        "sys.stdout = None\n"
        "assert main(['targets', 'cpu']) == 4\n"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False)

    assert done.returncode == 0


@pytest.mark.parametrize("encoding", ["ascii", "ascii:strict", "latin-1:strict", "cp437:strict"])
def test_signs_that_an_encoding_lacks_are_spelled_out(encoding: str) -> None:
    done = shell("", "targets", "cpu", PYTHONIOENCODING=encoding)
    wrong = shell("", "targets", "✓", PYTHONIOENCODING=encoding)

    assert done.returncode == 0, done.stderr
    assert done.stdout == "cpu\n"
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("x error: ")


def test_the_name_of_a_file_keeps_its_bytes() -> None:
    program = (
        "from fpet_export.cli import streams\n"
        "streams.prepare()\n"
        r"streams.answer('caf\udce9 \u4e2d \u2713')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True,
        env=os.environ | {"PYTHONIOENCODING": "ascii:strict"}, check=True,
    )  # fmt: skip

    assert done.stdout == b"caf\xe9 \\u4e2d ok\n"


def test_a_full_disk_is_one_sentence() -> None:
    program = (
        "import sys, errno\n"
        "from fpet_export.cli import dispatch as cli\n"
        "from fpet_export.cli.verbs import targets\n"
        "def run(options, console):\n"
        "    raise OSError(errno.ENOSPC, 'No space left on device', 'full/x')\n"
        "targets.run = run\n"
        "sys.exit(cli.main(['targets']))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    assert done.returncode == 4
    assert done.stderr.startswith("✗ error: No space left on device\n  where: full/x\n  fix:")


@pytest.mark.parametrize(("redirection", "code"), [(">/dev/full", 4), (">&-", 4), ("2>&-", 0)])
def test_the_agent_ends_as_well(redirection: str, code: int, tmp_path: Path) -> None:
    agent = tmp_path / "agent.pyz"
    agent.write_bytes(build_agent())
    command = ["sh", "-c", f'exec "$@" {redirection}', "sh", sys.executable, str(agent), "targets"]
    done = subprocess.run(command, capture_output=True, text=True)

    assert done.returncode == code
    assert "Traceback" not in done.stderr
