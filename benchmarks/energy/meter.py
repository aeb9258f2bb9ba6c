"""Energy as `bench` asks for it: a sensor before anything is measured, numbers after the rounds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from benchmarks.conditions.devices import runs_on_gpu
from benchmarks.conditions.machine_validity import check_conditions
from benchmarks.conditions.validity import MachineUse, foreign_load, other_load
from benchmarks.energy.course import Plan, run_course
from benchmarks.energy.evaluate import evaluate
from benchmarks.energy.find import find_sensor
from benchmarks.energy.recorder import Recorder, Recording
from benchmarks.energy.result import ContenderEnergy, EnergyRecord
from benchmarks.energy.sensor import Missing, Sensor
from benchmarks.latency import Clock, Contender, Pause, Progress
from engines.errors import MachineError

if TYPE_CHECKING:
    from types import TracebackType

    from benchmarks.conditions.validity import Finding
    from benchmarks.conditions.watched import Conditions
    from benchmarks.conditions.watcher import Watcher
    from benchmarks.energy.sources._machine import Device

Find = Callable[[Collection["Device"]], Sensor | tuple[Missing, ...]]
"""Returns a sensor of what does the work, or why there is none."""
_FIX = "leave --energy out, or measure on a machine that shows a sensor (docs/energy.md)"


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeasuredEnergy:
    """What was measured: the evidence, and each contender's energy by its name."""

    record: EnergyRecord
    of: Mapping[str, ContenderEnergy]


@dataclasses.dataclass(frozen=True, kw_only=True)
class EnergyMeter:
    """How energy is measured.

    Attributes:
        plan: How long.
        find: Returns a sensor of what does the work, or why there is none.
        record: Begins to read a sensor.
    """

    plan: Plan = dataclasses.field(default_factory=Plan)
    find: Find = find_sensor
    record: Callable[[Sensor], Recording] = Recorder

    def require(self, runtimes: Iterable[Mapping[str, str]]) -> None:
        """Refuse before anything is measured where no sensor tells the energy.

        Args:
            runtimes: What each engine says of itself.

        Raises:
            MachineError: No sensor measures all that these engines run on.
        """
        require_sensor(set(map(device_of, runtimes)), self.find).close()

    def measure(
        self,
        contenders: Sequence[Contender],
        runtimes: Iterable[Mapping[str, str]],
        *,
        batch: int,
        baseline: str,
        seed: int,
        clock: Clock,
        pause: Pause,
        machine: Callable[[], MachineUse],
        watcher: Watcher,
        on_jetson: bool,
        progress: Progress | None,
    ) -> MeasuredEnergy:
        """Let contenders work in turns, and return what each one used.

        Args:
            contenders: What runs.
            runtimes: What each engine says of itself.
            batch: Images of one run.
            baseline: Name of the contender that the others are compared with.
            seed: Seed of order and resampling.
            clock: Nanoseconds.
            pause: Rests.
            machine: Reads the machine's counters.
            watcher: Watches the machine while contenders work.
            on_jetson: Whether this is a Jetson.
            progress: See `run_course`.
        """
        devices = set(map(device_of, runtimes))
        sensor = self.find(devices)
        if not isinstance(sensor, Sensor):
            return self._lost(contenders, sensor)
        before, watch = machine(), _WorkWatch(watcher, clock)
        course = run_course(
            contenders,
            sensor,
            self.record,
            plan=self.plan,
            seed=seed,
            clock=clock,
            pause=pause,
            at_work=watch,
            progress=progress,
        )
        findings = (
            *foreign_load(other_load(before, machine())),
            *watch.findings(on_gpu="gpu" in devices, on_jetson=on_jetson),
        )
        record, found = evaluate(course, sensor, batch=batch, baseline=baseline, seed=seed)
        record = dataclasses.replace(
            record, findings=(*record.findings, *findings), conditions=watch.conditions
        )
        spoiled = "; ".join(one.what for one in findings if one.severity == "invalid")
        if spoiled:
            found = {name: ContenderEnergy(why_not=spoiled) for name in found}
        return MeasuredEnergy(record=record, of=found)

    def _lost(self, contenders: Sequence[Contender], missing: Sequence[Missing]) -> MeasuredEnergy:
        """Say that the sensor that was there before the rounds is gone; they are kept."""
        reason = f"the sensor is gone: {reasons_of(missing)}"
        record = EnergyRecord(
            source="none", covers="nothing", rule="none", total=(), rails=(), plan=self.plan
        )
        return MeasuredEnergy(
            record=record, of={one.name: ContenderEnergy(why_not=reason) for one in contenders}
        )


class _WorkWatch:
    """Watches the machine between the two rests, where clocks may fall and sensors fall silent."""

    def __init__(self, watcher: Watcher, clock: Clock) -> None:
        self._watching, self._clock = watcher.attempt(), clock
        self.conditions: Conditions | None = None
        self._start, self._lasted_s = 0, 0.0

    def __enter__(self) -> None:
        self._watching.__enter__()
        self._start = self._clock()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._lasted_s = (self._clock() - self._start) / 1e9
        if kind is None:
            self.conditions = self._watching.conditions(rounds_s=self._lasted_s)
        self._watching.__exit__(kind, error, trace)

    def findings(self, *, on_gpu: bool, on_jetson: bool) -> tuple[Finding, ...]:
        """Return what speaks against believing what was measured meanwhile."""
        assert self.conditions is not None, "asked before the work was over"
        return check_conditions(
            self.conditions, rounds_s=self._lasted_s, on_gpu=on_gpu, on_jetson=on_jetson
        )


def device_of(runtime: Mapping[str, str]) -> Device:
    """Return what an engine works on, from what it says of itself."""
    return "gpu" if runs_on_gpu(runtime) else "cpu"


def require_sensor(devices: Collection[Device], find: Find = find_sensor) -> Sensor:
    """Return a sensor that measures these devices.

    Raises:
        MachineError: There is none; the reason of every source is told.
    """
    found = find(devices)
    if isinstance(found, Sensor):
        return found
    raise _none(found)


def require_any_sensor(find: Find = find_sensor) -> None:
    """Refuse a machine that has no sensor, whatever will do the work.

    Raises:
        MachineError: It has none; what each source lacks is told.
    """
    missing: dict[str, Missing] = {}
    for device in ("cpu", "gpu"):
        found = find([device])
        if isinstance(found, Sensor):
            found.close()
            return
        missing |= {one.source: one for one in found if one.is_absent or one.source not in missing}
    raise _none(list(missing.values()))


def reasons_of(missing: Sequence[Missing]) -> str:
    """Return why there is no sensor, by source; those of other machines are left out."""
    named = [one for one in missing if one.is_absent] or missing
    return "; ".join(f"{one.source}: {one.reason}" for one in named)


def _none(missing: Sequence[Missing]) -> MachineError:
    told = reasons_of(missing)
    fix = next((one.fix for one in missing if one.fix), _FIX)
    return MachineError(f"no sensor here tells the energy: {told}", where="--energy", fix=fix)
