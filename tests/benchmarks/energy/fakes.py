"""A fake machine whose power is known at every moment, and fake sensors that look at it.

Time passes in steps of a millisecond, only when somebody works or waits.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.energy.recorder import Record
from benchmarks.energy.sensor import Sensor
from benchmarks.latency import Contender

if TYPE_CHECKING:
    from typing_extensions import Self

STEP_NS = 1_000_000
Power = Callable[[float, str], float]
"""`power(seconds, who)` in milliwatts; `who` works, "" is nobody."""


class FakeMachine:
    """Counts the energy that is really used, in all and by who works."""

    def __init__(self, power: Power) -> None:
        self.now_ns = 0
        self.energy_mj = 0.0
        self.power_mw = power(0.0, "")
        self.listeners: list[Callable[[], None]] = []
        self._power = power

    def __call__(self) -> int:
        return self.now_ns

    def work(self, ns: int) -> None:
        """Do what a fake engine does; nobody tells which one."""
        self._pass(ns, "somebody")

    def pause(self, seconds: float) -> None:
        self._pass(round(seconds * 1e9), "")

    def contender(self, name: str, latency_s: float) -> Contender:
        return Contender(name=name, run_once=lambda: self._pass(round(latency_s * 1e9), name))

    def _pass(self, ns: int, who: str) -> None:
        end = self.now_ns + ns
        while self.now_ns < end:
            step = min(STEP_NS, end - self.now_ns)
            self.power_mw = self._power(self.now_ns / 1e9, who)
            self.energy_mj += self.power_mw * step / 1e9
            self.now_ns += step
            for listener in self.listeners:
                listener()


@dataclasses.dataclass
class FakeSensor:
    """Shows the mean power since its last update, and updates every `period_s`.

    Attributes:
        machine: What it looks at.
        period_s: Time between two updates; it shows the same value in between.
        interval_s: How often it is read.
        noise: Standard deviation of a reading, as a share of it.
        counts: Whether it is a counter of energy.
        wraps_at_mj: Where that begins at 0 again.
        loses: Which readings are missing, by their number.
        dies_at_s: When it answers no more.
        parts: Rails beside the total, each with its share of it.
    """

    machine: FakeMachine
    period_s: float = 0.1
    interval_s: float = 0.1
    noise: float = 0.01
    seed: int = 0
    counts: bool = False
    wraps_at_mj: float = math.inf
    loses: Callable[[int], bool] = lambda number: False
    dies_at_s: float = math.inf
    parts: tuple[float, ...] = (0.5, 0.3)

    def __post_init__(self) -> None:
        self._generator = np.random.default_rng(self.seed)
        self._ns: list[int] = []
        self._values: list[tuple[float, ...]] = []
        self._shown = self.machine.power_mw
        self._updated, self._since = 0, 0.0
        self._reads = 0
        self.closed = False
        self.machine.listeners.append(self._tick)

    def sensor(self, **changes: Any) -> Sensor:
        names = ("PART_A", "TOTAL", "PART_B")[: 1 + len(self.parts)]
        described = Sensor(
            source="a fake sensor",
            covers="a fake machine",
            rails=names,
            total=(1,),
            rule="total = TOTAL",
            read=lambda: (),
            quantity="energy" if self.counts else "power",
            interval_s=self.interval_s,
            wraps_at_mj=(self.wraps_at_mj,) * len(names) if self.counts else (),
            close=self._close,
        )
        return dataclasses.replace(described, **changes)

    def _close(self) -> None:
        self.closed = True

    def _tick(self) -> None:
        machine = self.machine
        while machine.now_ns >= self._updated + round(self.period_s * 1e9):
            elapsed = (machine.now_ns - self._updated) / 1e9
            mean = (machine.energy_mj - self._since) / elapsed
            self._shown = mean * (1 + self.noise * self._generator.standard_normal())
            self._updated, self._since = machine.now_ns, machine.energy_mj
        while machine.now_ns >= round(self._reads * self.interval_s * 1e9):
            self._reads += 1
            if machine.now_ns / 1e9 >= self.dies_at_s or self.loses(self._reads):
                continue
            value = self._since % self.wraps_at_mj if self.counts else self._shown
            first, *others = self.parts
            self._ns.append(machine.now_ns)
            shares = (value * first, value, *(value * share for share in others))
            self._values.append(tuple(share % self.wraps_at_mj for share in shares))

    def recording(self, sensor: Sensor) -> FakeRecording:
        return FakeRecording(self)

    def record(self) -> Record:
        died = self.machine.now_ns / 1e9 >= self.dies_at_s
        return Record(
            ns=np.array(self._ns, np.int64),
            values=np.array(self._values, np.float64).reshape(len(self._ns), 1 + len(self.parts)),
            failure="the wire is broken" if died else "",
        )


class FakeRecording:
    """Implements `benchmarks.energy.recorder.Recording`."""

    def __init__(self, fake: FakeSensor) -> None:
        self._fake = fake

    def record(self) -> Record:
        return self._fake.record()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._fake._close()
