"""What the first answer takes: an artefact opened and run in processes of its own.

A board that starts an application waits for this, and one with 8 GB may die here: memory is at its
peak while an engine is opened. The system keeps files that were read lately in memory, so the very
first start after a boot takes longer.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import benchmarks
from benchmarks.feeds import synthetic_feeds
from engines.contract import OpenOptions
from engines.engine import open_engine
from engines.errors import EngineError
from engines.machine.sources import bytes_in, text_of

STARTS = 3
_LONGEST_S = 600
_PROGRAM = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); "
    "from benchmarks.scenarios import cold; cold.main()"
)
_OPTIONS = ("threads", "provider", "cuda_graph", "zero_copy", "allow_failed")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ColdStart:
    """Medians of `STARTS` processes; bytes are None where the system does not state them.

    Attributes:
        first_answer_s: From the start of the process to its first answer, Python included.
        open_s: Opening the artefact, its runtime's import included.
        first_run_s: The first run.
        next_run_s: The second.
        peak_bytes: Largest resident memory of the process.
        taken_bytes: By how much less memory the machine had to give meanwhile, at the most; on a
            board this counts what the GPU took, too.
    """

    first_answer_s: float
    open_s: float
    first_run_s: float
    next_run_s: float
    peak_bytes: int | None
    taken_bytes: int | None


def run_cold(path: Path, *, batch: int, options: OpenOptions) -> ColdStart:
    """Open an artefact and run it twice, in several new processes.

    Args:
        path: The artefact.
        batch: Images of one run.
        options: How it is opened.

    Raises:
        EngineError: A process failed.
    """
    home = Path(benchmarks.__file__).resolve().parents[1]  # of the agent: the file agent.pyz
    plan = {
        "path": str(path.resolve()),
        "batch": batch,
        "options": {name: getattr(options, name) for name in _OPTIONS},
    }
    starts = [_one(home, plan) for _ in range(STARTS)]
    return ColdStart(
        first_answer_s=statistics.median(one["first_answer_s"] for one in starts),
        open_s=statistics.median(one["open_s"] for one in starts),
        first_run_s=statistics.median(one["first_run_s"] for one in starts),
        next_run_s=statistics.median(one["next_run_s"] for one in starts),
        peak_bytes=_middle([one["peak_bytes"] for one in starts]),
        taken_bytes=_middle([one["taken_bytes"] for one in starts]),
    )


def _one(home: Path, plan: dict[str, Any]) -> dict[str, Any]:
    command = [sys.executable, "-c", _PROGRAM, str(home), json.dumps(plan)]
    before = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, timeout=_LONGEST_S, check=False)
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise EngineError(
            f"it cannot be opened in a process of its own: {(lines or ['no message'])[-1]}",
            where=plan["path"],
            fix="leave the scenario cold out",
        )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    found["first_answer_s"] = found.pop("answered_at_s") - before
    return found


def main() -> None:
    """Open and run what the first argument says, and print what it took as JSON."""
    plan = json.loads(sys.argv[1])
    available = [_available()]
    start = time.monotonic()
    with open_engine(Path(plan["path"]), options=OpenOptions(**plan["options"])) as engine:
        opened = time.monotonic()
        available.append(_available())
        feeds = synthetic_feeds(engine.inputs, batch=plan["batch"], seed=0, name=engine.name)
        ready = time.monotonic()
        engine.run(feeds)
        first = time.monotonic()
        available.append(_available())
        engine.run(feeds)
        second = time.monotonic()
    known = [one for one in available if one is not None]
    document = {
        "answered_at_s": first,  # of a clock that all processes share
        "open_s": opened - start,
        "first_run_s": first - ready,
        "next_run_s": second - first,
        "peak_bytes": bytes_in(text_of(Path("/proc/self/status")), "VmHWM"),
        "taken_bytes": max(known[0] - min(known), 0) if len(known) == len(available) else None,
    }
    sys.stdout.write(json.dumps(document) + "\n")


def _available() -> int | None:
    return bytes_in(text_of(Path("/proc/meminfo")), "MemAvailable")


def _middle(values: list[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return int(statistics.median(known)) if len(known) == len(values) else None
