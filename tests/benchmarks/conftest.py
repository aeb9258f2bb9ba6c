"""A fake engine, a fake clock and a quiet fake machine."""

from __future__ import annotations

import dataclasses
import datetime as dt
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from benchmarks.conditions.environment import Environment, read_environment
from benchmarks.conditions.validity import MachineUse
from benchmarks.conditions.watched import Conditions, Watch
from engines.backends._engine_base import EngineBase, EngineSpec
from engines.contract import Array, Feeds
from engines.errors import EngineError
from engines.machine.snapshot import Snapshot
from engines.manifest import TensorSpec

if TYPE_CHECKING:
    from typing_extensions import Self


class FakeClock:
    """Time that passes only when an engine works or somebody waits."""

    def __init__(self) -> None:
        self.now_ns = 0

    def __call__(self) -> int:
        return self.now_ns

    def work(self, ns: int) -> None:
        self.now_ns += ns

    def pause(self, seconds: float) -> None:
        self.now_ns += round(seconds * 1e9)


class FakeWatcher:
    """Watches nothing, and tells the same of every attempt; see `Watcher`."""

    def __init__(self, conditions: Conditions | None = None) -> None:
        self.attempts: list[float] = []
        quiet = Watch(interval_s=0.25, times_ms=(0,) * 8, series={"busy_ticks": (0,) * 8})
        self._conditions = conditions or Conditions(
            before=Snapshot(), after=Snapshot(), watch=quiet
        )

    def __call__(self) -> FakeWatcher:
        return self

    def attempt(self) -> FakeWatcher:
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def conditions(self, *, rounds_s: float) -> Conditions:
        self.attempts.append(rounds_s)
        return self._conditions


class FakeEngine(EngineBase):
    """Implements `engines.contract.Engine`; a run takes the next of `latencies_ns`."""

    def __init__(
        self,
        name: str,
        clock: FakeClock,
        latencies_ns: Iterator[int] | None = None,
        *,
        batch: int | str = "batch",
        error: float = 0.0,
        fails: bool = False,
    ) -> None:
        images = TensorSpec(name="images", shape=(batch, 3, 8, 8), dtype="float32")
        logits = TensorSpec(name="logits", shape=(batch, 4), dtype="float32")
        super().__init__(EngineSpec(name=name, inputs=(images,), outputs=(logits,)))
        self.closed = False
        self.runs = 0
        self._clock = clock
        self._latencies = latencies_ns or itertools.repeat(1_000_000)
        self._error, self._fails = error, fails

    def run(self, feeds: Feeds) -> dict[str, Array]:
        if self._fails:
            raise EngineError("the compiler is missing", where=self.name, fix="install it")
        images = feeds["images"].astype(np.float64).reshape(len(feeds["images"]), -1)
        mixing = np.random.default_rng(0).standard_normal((images.shape[1], 4))
        logits = images @ mixing
        logits[:, 0] += self._error * np.abs(logits).max()
        return {"logits": logits.astype(np.float32)}

    def bind(self, feeds: Feeds) -> Callable[[], None]:
        def run_once() -> None:
            self.runs += 1
            self._clock.work(next(self._latencies))

        return run_once

    def describe(self) -> dict[str, str]:
        return {"runtime": "fake", "version": "1"}

    def _free(self) -> None:
        self.closed = True


def latencies(median_ns: int, *, seed: int, spread: float = 0.02) -> Iterator[int]:
    """Yield latencies around a median, with the same seed always the same ones."""
    generator = np.random.default_rng(seed)
    while True:
        yield int(median_ns * np.exp(spread * generator.standard_normal()))


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def quiet_machine(clock: FakeClock) -> Callable[[], MachineUse]:
    """A machine on which only this process works."""

    def read() -> MachineUse:
        now = clock.now_ns / 1e9
        return MachineUse(wall_s=now, own_s=now, busy_s=now, steal_s=0.0, processors=2)

    return read


@pytest.fixture
def watcher() -> FakeWatcher:
    """A watcher to whom nothing happens."""
    return FakeWatcher()


@pytest.fixture(scope="session")
def environment() -> Environment:
    return dataclasses.replace(
        read_environment(
            root=Path("/nonexistent"), now=dt.datetime(2026, 1, 2, tzinfo=dt.timezone.utc)
        ),
        cpu="A CPU of a test",
        usable_processors=2,
    )


@pytest.fixture
def make_engine(clock: FakeClock) -> Callable[..., FakeEngine]:
    """`make_engine(name, median_ns, ...)`: an engine with seeded, slightly noisy latencies."""

    def make(
        name: str,
        median_ns: int = 10_000_000,
        *,
        batch: int | str = "batch",
        error: float = 0.0,
        fails: bool = False,
        spread: float = 0.02,
    ) -> FakeEngine:
        seed = sum(name.encode())
        return FakeEngine(
            name,
            clock,
            latencies(median_ns, seed=seed, spread=spread),
            batch=batch,
            error=error,
            fails=fails,
        )

    return make
