"""How long it takes to turn to a task whose weights are not in memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from engines.contract import OpenOptions
from engines.tasks.open_tasks import open_tasks

REPEATS = 5

Clock = Callable[[], int]


def switch_times_ns(
    folder: Path,
    names: Sequence[str],
    *,
    options: OpenOptions | None = None,
    repeats: int = REPEATS,
    clock: Clock = time.perf_counter_ns,
) -> dict[str, int]:
    """Return the median time to each task from another one, its weights not being in memory.

    That is to read its file, to check it against the index, to assemble its weights and, on a
    GPU, to upload them. A task whose weights are in memory is another set of pointers.

    Args:
        folder: Folder of the tasks.
        names: Tasks to turn to.
        options: How the shared engines are opened.
        repeats: Switches to each.
        clock: Nanoseconds.

    Returns:
        Nanoseconds by task; empty where the folder holds one task, which nothing follows.
    """
    found: dict[str, list[int]] = {name: [] for name in names}
    with open_tasks(folder, options=options, resident_bytes=0) as tasks:
        if len(tasks.names) == 1:
            return {}
        handles = {name: tasks.task(name) for name in tasks.names}
        for _ in range(repeats):
            for name, times in found.items():
                if name in tasks.resident():  # one always stays: let another take its place
                    next(handle for key, handle in handles.items() if key != name).activate()
                began = clock()
                handles[name].activate()
                times.append(clock() - began)
    return {name: int(statistics.median(times)) for name, times in found.items()}
