"""Run a long command, keep what it prints in a log, and say every few seconds what it is at.

`python3 with_progress.py TEXT LOG COMMAND…`. It is what installs packages, so it needs none. When
the command fails, the end of its log is printed, and its exit code is passed on.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

INTERVAL_S = 8.0  # a line every ten seconds is promised
_TAIL = 20  # lines of the log that explain a failure
_WIDTH = 80


def say(text: str) -> None:
    """Print a line for people."""
    print(text, file=sys.stderr, flush=True)


def newest(log: Path) -> str:
    """Return the last line of a log that holds anything, without its indentation."""
    lines = log.read_text("utf-8", errors="replace").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def run(
    text: str,
    log: Path,
    command: Sequence[str],
    *,
    start: Callable[..., subprocess.Popen[bytes]] = subprocess.Popen,
    clock: Callable[[], float] = time.monotonic,
    tell: Callable[[str], None] = say,
) -> int:
    """Run a command and return its exit code.

    Args:
        text: What it does, for people.
        log: Where what it prints goes.
        command: Word by word.
        start: Starts it.
        clock: Seconds.
        tell: Prints a line.
    """
    began = clock()
    with log.open("wb") as stream:
        process = start(list(command), stdout=stream, stderr=subprocess.STDOUT)
        while True:
            try:
                code = process.wait(timeout=INTERVAL_S)
                break
            except subprocess.TimeoutExpired:
                said = f"   … {text}, {clock() - began:.0f} s: {newest(log)}"
                tell(said if len(said) <= _WIDTH else said[: _WIDTH - 1] + "…")
            except KeyboardInterrupt:
                process.wait()  # it was interrupted, too
                raise
    if code == 0:
        tell(f" ✓ {text}, {clock() - began:.0f} s")
        return 0
    end = log.read_text("utf-8", errors="replace").splitlines()[-_TAIL:]
    tell("\n".join([*end, f" ✗ {text} failed with exit code {code}; all it printed: {log}"]))
    return code


def main() -> int:
    """Run what the command line names."""
    text, log, *command = sys.argv[1:]
    try:
        return run(text, Path(log), command)
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
