"""The driver of a sweep: gives the steps that are missing to the workers, in two phases.

First references, exports, quantizations and engines, side by side. Then, on a machine that has
nothing else to do, the measurements, one after the other. That takes no longer: a measurement must
have the machine to itself in any order.
"""

from __future__ import annotations

import contextlib
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from distributed import Client, Future, as_completed
from distributed.scheduler import KilledWorker

from engines.errors import MachineError, RemoteError
from fpet_export.reporter import Reporter
from fpet_export.sweep import cluster
from fpet_export.sweep.grid import Point, steps_of
from fpet_export.sweep.request import SweepRequest
from fpet_export.sweep.steps import EngineStep, Step
from fpet_export.sweep.store import GRID, Failure, Record, Store
from fpet_export.sweep.work import perform, state_of


def drive(
    request: SweepRequest,
    points: Sequence[Point],
    store: Store,
    reporter: Reporter,
    settled: Callable[[Step], None],
) -> None:
    """Do every step that is missing.

    Args:
        request: What is asked for.
        points: The grid.
        store: Its folder.
        reporter: Hears how far it is.
        settled: Called after every step, with it.

    Raises:
        RemoteError: The scheduler does not answer, or its workers do not fit.
    """
    missing = [step for step in steps_of(points) if state_of(step, store) is None]
    if not missing:
        return
    with contextlib.ExitStack() as stack:
        with reporter.working("starting workers"):
            client = stack.enter_context(cluster.connected(request))
        homes: Mapping[str, str] = {}
        if request.scheduler is not None:
            homes = cluster.placed(client, request, store.root / GRID, request.targets)
        driver = _Driver(client, store, homes, settled)
        together = [step for step in missing if not step.alone]
        with reporter.progress("exports and engines", len(together)) as advance:
            driver.side_by_side(together, advance)
        alone = [step for step in missing if step.alone and state_of(step, store) is None]
        with reporter.progress("measurements", len(alone)) as advance:
            driver.one_by_one(alone, advance)


class _Driver:
    """Gives steps to workers, and hears what becomes of them."""

    def __init__(
        self,
        client: Client,
        store: Store,
        homes: Mapping[str, str],
        settled: Callable[[Step], None],
    ) -> None:
        self._client, self._store, self._homes = client, store, homes
        self._settled = settled
        self._this = uuid.uuid4().hex
        self._steps: dict[str, Step] = {}

    def side_by_side(self, steps: Sequence[Step], advance: Callable[[int], None]) -> None:
        """Do steps in the order in which they need each other, many at once."""
        futures: dict[str, Future] = {}
        for number, step in enumerate(steps):
            after = [futures[need.name] for need in step.needs if need.name in futures]
            futures[step.name] = self._submit(step, after, priority=-number)
        for future in as_completed(futures.values(), loop=self._client.loop):
            self._heard(future)
            advance(1)

    def one_by_one(self, steps: Sequence[Step], advance: Callable[[int], None]) -> None:
        """Do steps one after the other, on each machine that has some."""
        waiting: dict[str, deque[Step]] = {}
        for step in steps:
            waiting.setdefault(self._home(step) or "", deque()).append(step)
        first = [self._submit(queue.popleft()) for queue in waiting.values()]
        running = as_completed(first, loop=self._client.loop)
        for future in running:
            step = self._heard(future)
            advance(1)
            queue = waiting[self._home(step) or ""]
            if queue:
                running.add(self._submit(queue.popleft()))

    def _submit(self, step: Step, after: Sequence[Future] = (), *, priority: int = 0) -> Future:
        key = f"{step.name}-{self._this}"
        self._steps[key] = step
        home = self._home(step)
        return self._client.submit(
            perform, self._store.root, step, list(after), key=key, priority=priority,
            workers=None if home is None else [home],
        )  # fmt: skip

    def _home(self, step: Step) -> str | None:
        """Return the machine that a step must run on; None for any."""
        built = next((one for one in (step, *step.needs) if isinstance(one, EngineStep)), None)
        return None if built is None else self._homes.get(built.target)

    def _heard(self, future: Future) -> Step:
        """Take note of how a step ended, and return it."""
        step = self._steps[future.key]
        if future.status == "error":
            error: Any = future.exception()
            if not isinstance(error, KilledWorker):
                raise error
            if error.task == future.key:
                self._give_up(step)
        elif future.status != "finished":
            raise RemoteError(
                f"the scheduler has ended, or has lost a step ({future.status})",
                where=step.name,
                fix="type the same command again: it goes on from what is there",
            )
        self._settled(step)
        return step

    def _give_up(self, step: Step) -> None:
        error = MachineError(
            "the worker was killed each time that it did this step",
            where=step.name,
            fix="perhaps the memory was too small: fewer --workers, and --retry-failed",
        )
        record = Record(
            key=step.key, asked=dict(step.asked), facts={}, inputs={}, seconds=0.0, host="",
            failure=Failure.of(error),
        )  # fmt: skip
        with self._store.room(step.name) as folder:
            self._store.commit(step.name, folder, record)
