"""A process of its own that reads numbers from small files at a steady rate.

It shares no interpreter lock with what is measured, reads nothing that is slow, and takes longer
between readings rather than more than its share of a core. Its readings are its heartbeat: whoever
uses them looks when the last one was taken and how far they lie apart.

Standard library only, because it also runs on boards, and starts without the site packages.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self  # typing.Self needs Python 3.11

_SHARE = 0.005
"""Of one core that a sampler takes at most."""
_START_S = 10.0
"""How long to wait for the first reading; Python starts slowly on a busy board."""
_STOP_S = 5.0
_PROGRAM = "import sys; sys.path.insert(0, sys.argv.pop(1)); from engines.machine import sampler; "


@dataclasses.dataclass(frozen=True)
class Source:
    """A number in a file.

    Attributes:
        path: The file.
        line: What the line begins with that holds the number; "" takes the first line.
        words: Which words behind that, counted from 0; they are added.
        divisor: What the sum is divided by, rounded down.
    """

    path: str
    line: str = ""
    words: tuple[int, ...] = (0,)
    divisor: int = 1

    def value(self, text: str) -> int | None:
        r"""Return the number; None where the text does not hold it.

        >>> Source("/proc/meminfo", "MemAvailable:").value("MemTotal: 9 kB\nMemAvailable: 7 kB\n")
        7
        """
        start = 0
        if self.line and not text.startswith(self.line):
            start = text.find(f"\n{self.line}") + 1
            if start == 0:
                return None
        end = text.find("\n", start)
        words = text[start + len(self.line) : None if end < 0 else end].split()
        try:
            return sum(int(words[index]) for index in self.words) // self.divisor
        except (IndexError, ValueError):
            return None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Samples:
    """What a sampler read.

    Attributes:
        interval_s: How far apart its readings were meant to be.
        times_s: When each was taken, by `time.monotonic`.
        columns: The readings of each source; None where its file told nothing.
        cpu_s: Processor time that it used for all of them, without its own start.
        failure: Why it is not to be trusted; "" where it worked to its end.
    """

    interval_s: float
    times_s: tuple[float, ...]
    columns: dict[str, tuple[int | None, ...]]
    cpu_s: float
    failure: str = ""


class Sampler:
    """Reads sources in a process of its own, from `with` until `stop`.

    Args:
        sources: By name.
        interval_s: Seconds between readings; longer ones where reading takes more than its share.
    """

    def __init__(self, sources: Mapping[str, Source], *, interval_s: float) -> None:
        self._sources, self._interval_s = dict(sources), interval_s
        self._process: subprocess.Popen[bytes] | None = None
        self._out: IO[bytes] | None = None

    def __enter__(self) -> Self:
        """Start it, and wait for its first reading; one that does not start fails in `stop`."""
        self._out = tempfile.TemporaryFile()
        command = [sys.executable, "-I", "-S", "-c", f"{_PROGRAM}sampler.main()", str(_home())]
        with contextlib.suppress(OSError):  # `stop` says so
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=self._out,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for whoever measures
            )
            assert self._process.stdin is not None
            plan = {
                "interval_s": self._interval_s,
                "sources": [dataclasses.astuple(source) for source in self._sources.values()],
            }
            self._process.stdin.write(json.dumps(plan).encode() + b"\n")
            self._process.stdin.flush()
        deadline = time.monotonic() + _START_S
        while self._is_running() and not self._text() and time.monotonic() < deadline:
            time.sleep(0.005)
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()
        if self._out is not None:
            self._out.close()
            self._out = None

    @property
    def pid(self) -> int | None:
        """The number of the process; None where it was not started."""
        return None if self._process is None else self._process.pid

    def stop(self) -> Samples:
        """Let it take a last reading and end; return what it read, and whether it was alive."""
        failure = self._ended()
        rows, cpu_s, names = [], 0.0, list(self._sources)
        for line in self._text().splitlines():
            try:
                row = json.loads(line)
            except ValueError:  # its last words, cut off
                continue
            if isinstance(row, dict):
                cpu_s = row["cpu_s"]
            else:
                rows.append(row)
        return Samples(
            interval_s=self._interval_s,
            times_s=tuple(row[0] for row in rows),
            columns={name: tuple(row[1 + at] for row in rows) for at, name in enumerate(names)},
            cpu_s=cpu_s,
            failure=failure,
        )

    def _ended(self) -> str:
        process = self._process
        if process is None:
            return "could not be started"
        if process.stdin is not None and not process.stdin.closed:
            died = process.poll() is not None
            with contextlib.suppress(OSError):
                process.stdin.close()
            if died:
                return f"ended by itself with {process.returncode}"
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return f"did not answer within {_STOP_S:.0f} s"
        return "" if process.returncode == 0 else f"ended with {process.returncode}"

    def _is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _text(self) -> str:
        """Return what it wrote; the offset of the file is the process's own."""
        if self._out is None:
            return ""
        number = self._out.fileno()
        return os.pread(number, os.fstat(number).st_size, 0).decode("ascii", "replace")


def main() -> None:
    """Read what stdin's first line asks for until stdin ends; write a line a reading."""
    asked: Any = json.loads(_first_line())
    sources = [Source(path, line, tuple(words), by) for path, line, words, by in asked["sources"]]
    interval_s, is_over, started = float(asked["interval_s"]), False, time.process_time()
    while True:
        began = time.process_time()
        _tell([round(time.monotonic(), 4), *_readings(sources)])
        if is_over:
            break
        cost_s = time.process_time() - began
        ready, _, _ = select.select([0], [], [], max(interval_s, cost_s / _SHARE))
        is_over = bool(ready) and not os.read(0, 1)
    _tell({"cpu_s": round(time.process_time() - started, 4)})


def _readings(sources: Sequence[Source]) -> list[int | None]:
    texts: dict[str, str | None] = {}
    found = []
    for source in sources:
        if source.path not in texts:
            texts[source.path] = _read(source.path)
        text = texts[source.path]
        found.append(None if text is None else source.value(text))
    return found


def _read(path: str) -> str | None:
    try:
        number = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        return os.read(number, 1 << 16).decode("ascii", "replace")
    except OSError:  # the sensor does not answer
        return None
    finally:
        os.close(number)


def _first_line() -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            sys.exit(2)
        line += byte
    return line


def _tell(row: object) -> None:
    os.write(1, json.dumps(row).encode() + b"\n")


def _home() -> Path:
    """Return what a new Python must search for this module: a folder, or the agent's file."""
    return Path(__file__).parents[2].absolute()
