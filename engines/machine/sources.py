"""Where facts about a machine come from: small files of the kernel, and what commands print.

Standard library only, because it also runs on boards.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from shutil import which

ROOT = Path("/")
"""Where `etc`, `proc`, `sys` and `var` are; another folder in tests."""

_SBIN = ("/usr/sbin", "/usr/bin", "/sbin", "/bin")
"""Where NVIDIA's tools are, and a PATH that came through ssh may not lead to."""
_TIMEOUT_S = 10

Run = Callable[[Sequence[str]], str]
"""Runs a command and returns what it prints, also where it fails; "" where it is absent."""


def text_of(path: Path) -> str:
    """Return what a file holds; "" where it cannot be read."""
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""


def bytes_in(text: str, name: str) -> int | None:
    """Return a field of `/proc/meminfo` or `/proc/PID/status` in bytes; None where it is absent."""
    found = re.search(rf"^{name}:\s*(\d+) kB$", text, re.MULTILINE)
    return None if found is None else int(found[1]) << 10


def number_of(path: Path) -> int | None:
    """Return the whole number that a file holds; None where it holds none or cannot be read."""
    try:
        return int(path.read_text("ascii"))
    except (OSError, ValueError):
        return None


def program(name: str) -> str | None:
    """Return where a program is, also where PATH leaves out the folders of administration."""
    folders = [*os.environ.get("PATH", "").split(os.pathsep), *_SBIN]
    return which(name, path=os.pathsep.join(filter(None, folders)))


def run_command(words: Sequence[str]) -> str:
    """Return what a command prints, its errors included; "" where it is absent or hangs."""
    found = program(words[0])
    if found is None:
        return ""
    try:
        done = subprocess.run(
            [found, *words[1:]],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "LC_ALL": "C"},
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout if done.returncode == 0 else f"{done.stdout}{done.stderr}"
