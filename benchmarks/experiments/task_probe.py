"""What one process needs that serves tasks: memory, and the time of a switch.

`python -m benchmarks.experiments.task_probe FOLDER --tasks a,b,c` prints one JSON document. It
imports what a server would: `engines`, numpy and ONNX Runtime.
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import json
import random
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.feeds import synthetic_feeds
from engines.contract import OpenOptions
from engines.engine import open_engine
from engines.errors import FpetError, MissingDependencyError
from engines.tasks.index import read_index
from engines.tasks.open_tasks import TaskSet, open_tasks

_ROLLUP = Path("/proc/self/smaps_rollup")
_UNLIMITED = 1 << 60


@dataclasses.dataclass(frozen=True, kw_only=True)
class Memory:
    """What the system says this process has in memory.

    Attributes:
        resident_bytes: RSS: pages that are mapped and present.
        proportional_bytes: PSS: the same, a page shared by n processes counted as 1/n.
    """

    resident_bytes: int
    proportional_bytes: int


def read_memory(rollup: Path = _ROLLUP) -> Memory:
    """Read what this process uses.

    What the C library keeps of freed memory is given back first: after reading a graph that may be
    a fourth of the whole, in some runs and not in others.

    Raises:
        MissingDependencyError: The system does not tell.
    """
    try:
        ctypes.CDLL(None).malloc_trim(0)
        text = rollup.read_text()
        resident, proportional = (
            int(re.findall(rf"^{name}:\s+(\d+) kB$", text, re.M)[0]) << 10
            for name in ("Rss", "Pss")
        )
    except (OSError, IndexError, AttributeError) as error:
        raise MissingDependencyError(
            f"the memory of a process cannot be read: {error}",
            where=str(rollup),
            fix="measure on Linux 4.14 or later, with glibc",
        ) from error
    return Memory(resident_bytes=resident, proportional_bytes=proportional)


def _bytes(text: str, name: str) -> int:
    return int(re.findall(rf"^{name}:\s+(\d+) kB$", text, re.M)[0]) << 10


def serve(folder: Path, names: Sequence[str], *, rounds: int, threads: int) -> dict[str, Any]:
    """Run every task in turn, then switch between them without running.

    Args:
        folder: Folder of tasks.
        names: Those to serve.
        rounds: How often each runs.
        threads: CPU threads of an inference.

    Returns:
        Memory after the imports, after the first task and at the end; the time of every switch to
        a task whose weights are not in memory ("cold": read, checked and assembled) and to one
        whose are ("warm"). Nanoseconds.
    """
    index = read_index(folder)
    options = OpenOptions(threads=threads)
    before = read_memory()
    order = list(names) * rounds
    random.Random(0).shuffle(order)
    with open_tasks(folder, options=options) as tasks:
        after_one = None
        for name in order:
            handle = tasks.task(name)
            handle.run(synthetic_feeds(handle.inputs, batch=1, seed=0, name=name))
            after_one = after_one or read_memory()
        at_end = read_memory()
        resident = len(tasks.resident())
    graphs = {structure.graph.file for structure in index.structures}
    engines = {file: open_engine(folder / file, options=options) for file in graphs}
    cold, warm = (
        _switches(open_tasks(folder, engines=engines, resident_bytes=limit), order)
        for limit in (0, _UNLIMITED)
    )
    return {
        "tasks": len(names),
        "imported": dataclasses.asdict(before),
        "after_one_run": dataclasses.asdict(after_one or before),
        "at_end": dataclasses.asdict(at_end),
        "resident_tasks": resident,
        "cold_ns": cold,
        "warm_ns": warm,
    }


def _switches(tasks: TaskSet, order: Sequence[str]) -> list[int]:
    """Return how long each change of the task took; the first round of each is not counted."""
    handles = {name: tasks.task(name) for name in set(order)}
    for handle in handles.values():
        handle.activate()
    times, current = [], None
    for name in order:
        if name == current:
            continue
        start = time.perf_counter_ns()
        handles[name].activate()
        times.append(time.perf_counter_ns() - start)
        current = name
    return times


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve, and print what was found."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.experiments.task_probe")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tasks", required=True, help="names, separated by commas")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    try:
        found = serve(
            options.folder,
            options.tasks.split(","),
            rounds=options.rounds,
            threads=options.threads,
        )
    except FpetError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    sys.stdout.write(json.dumps(found) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
