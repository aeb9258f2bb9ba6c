"""Energy as `bench` asks for it: a sensor before anything is measured, numbers after the rounds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from benchmarks.conditions.devices import runs_on_gpu
from benchmarks.energy.course import Plan, run_course
from benchmarks.energy.evaluate import evaluate
from benchmarks.energy.find import find_sensor
from benchmarks.energy.recorder import Recorder, Recording
from benchmarks.energy.result import ContenderEnergy, EnergyRecord
from benchmarks.energy.sensor import Missing, Sensor
from benchmarks.latency import Clock, Contender, Pause, Progress
from engines.errors import MachineError

if TYPE_CHECKING:
    from benchmarks.conditions.validity import Finding
    from benchmarks.energy.sources._machine import Device

_FIX = "leave --energy out, or measure on a machine that shows a sensor (docs/energy.md)"

EnergyOf = Mapping[str, ContenderEnergy]
"""By contender's name."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EnergyMeter:
    """How energy is measured.

    Attributes:
        plan: How long.
        find: Returns a sensor of what does the work, or why there is none.
        record: Begins to read a sensor.
    """

    plan: Plan = dataclasses.field(default_factory=Plan)
    find: Callable[[Collection[Device]], Sensor | tuple[Missing, ...]] = find_sensor
    record: Callable[[Sensor], Recording] = Recorder

    def open(self, runtimes: Sequence[Mapping[str, str]]) -> Sensor:
        """Return the sensor that measures where all these engines run.

        Args:
            runtimes: What each engine says of itself.

        Raises:
            MachineError: There is none.
        """
        return require_sensor({device_of(runtime) for runtime in runtimes}, self.find)

    def measure(
        self,
        contenders: Sequence[Contender],
        sensor: Sensor,
        *,
        batch: int,
        baseline: str,
        seed: int,
        clock: Clock,
        pause: Pause,
        progress: Progress | None,
    ) -> tuple[EnergyRecord, EnergyOf]:
        """Let contenders work in turns; return the evidence and what each one used.

        Args:
            contenders: What runs.
            sensor: From `open`; it is closed.
            batch: Images of one run.
            baseline: Name of the contender that the others are compared with.
            seed: Seed of order and resampling.
            clock: Nanoseconds.
            pause: Rests.
            progress: See `run_course`.
        """
        course = run_course(
            contenders,
            sensor,
            self.record,
            plan=self.plan,
            seed=seed,
            clock=clock,
            pause=pause,
            progress=progress,
        )
        return evaluate(course, sensor, batch=batch, baseline=baseline, seed=seed)


def device_of(runtime: Mapping[str, str]) -> Device:
    """Return what an engine works on, from what it says of itself."""
    return "gpu" if runs_on_gpu(runtime) else "cpu"


def require_sensor(
    devices: Collection[Device],
    find: Callable[[Collection[Device]], Sensor | tuple[Missing, ...]] = find_sensor,
) -> Sensor:
    """Return a sensor that measures these devices.

    Raises:
        MachineError: There is none; the reason of every source is told.
    """
    found = find(devices)
    if isinstance(found, Sensor):
        return found
    told = "; ".join(f"{one.source}: {one.reason}" for one in found)
    raise MachineError(
        f"no sensor here tells the energy: {told}",
        where="--energy",
        fix=next((one.fix for one in found if one.fix), _FIX),
    )


def spoiled(
    record: EnergyRecord, found: EnergyOf, findings: Sequence[Finding]
) -> tuple[EnergyRecord, EnergyOf]:
    """Add what else was found meanwhile; what makes numbers misleading takes them away."""
    kept = dataclasses.replace(record, findings=(*record.findings, *findings))
    reasons = "; ".join(one.what for one in findings if one.severity == "invalid")
    if not reasons:
        return kept, found
    return kept, {name: ContenderEnergy(why_not=reasons) for name in found}
