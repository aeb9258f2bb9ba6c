"""A long command is not silent, and when it fails its last words are shown."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import IO, Any

import pytest


def load() -> ModuleType:
    """Import a program that lies in no package."""
    path = Path(__file__).parents[2] / ".ci" / "with_progress.py"
    spec = importlib.util.spec_from_file_location("with_progress", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


with_progress = load()


class Slow:
    """A process that ends after so many waits and writes a line before each."""

    def __init__(self, clock: list[float], waits: int, code: int = 0) -> None:
        self._clock, self._left, self._code = clock, waits, code

    def __call__(self, command: list[str], *, stdout: IO[bytes], stderr: int) -> Slow:
        self._log = stdout
        return self

    def wait(self, timeout: float) -> int:
        self._log.write(b"Collecting torch\n  Downloading torch.whl (530.7 MB)\n\n")
        self._log.flush()
        if self._left == 0:
            return self._code
        self._left -= 1
        self._clock[0] += timeout
        raise subprocess.TimeoutExpired("", timeout)


def run(tmp_path: Path, waits: int, code: int = 0) -> tuple[int, list[str]]:
    clock = [100.0]
    said: list[str] = []
    slow: Any = Slow(clock, waits, code)
    found = with_progress.run(
        "install packages",
        tmp_path / "pip.log",
        ["pip"],
        start=slow,
        clock=lambda: clock[0],
        tell=said.append,
    )
    return found, said


def test_a_line_every_few_seconds_says_what_it_is_at(tmp_path: Path) -> None:
    code, said = run(tmp_path, 2)

    assert code == 0
    assert said == [
        "   … install packages, 8 s: Downloading torch.whl (530.7 MB)",
        "   … install packages, 16 s: Downloading torch.whl (530.7 MB)",
        " ✓ install packages, 16 s",
    ]
    assert with_progress.INTERVAL_S < 10


def test_a_failure_shows_the_end_of_the_log(tmp_path: Path) -> None:
    code, said = run(tmp_path, 0, code=3)

    assert code == 3
    assert "Downloading torch.whl" in said[-1]
    assert f"failed with exit code 3; all it printed: {tmp_path / 'pip.log'}" in said[-1]


def test_its_exit_code_is_that_of_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [sys.executable, "-c", "print('x'); raise SystemExit(7)"]
    monkeypatch.setattr(sys, "argv", ["with_progress.py", "x", str(tmp_path / "log"), *command])

    assert with_progress.main() == 7
    assert (tmp_path / "log").read_text() == "x\n"
