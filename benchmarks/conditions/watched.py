"""What was known of the machine before, during and after the rounds of a measurement."""

from __future__ import annotations

import dataclasses

from benchmarks.conditions.setting import Setting
from engines.machine.snapshot import GpuUsers, Snapshot

Series = tuple[int | None, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Watch:
    """What a process of its own read while the rounds ran; see `engines.machine.sampler`.

    Attributes:
        interval_s: How far apart its readings were meant to be.
        times_ms: When each was taken, after the first round began; the first reading is the last
            one before that.
        series: What was read, by its name with the unit at its end: `clock_mhz.GPU`,
            `cap_mhz.GPU` (the upper limit), `temperature_mc.tj-thermal` (thousandths of a degree),
            `slowed.gpu-throttle-alert` (above 0 while it slows down), `power_mode_number`,
            `swapped_mib`, `available_mib`, `busy_ticks`, `gpu_load_permille`. None is what could
            not be read at that moment.
        cpu_s: Processor time that watching took from its start to its end.
        lived_s: How long that was.
        failure: Why the watcher is not to be trusted; "" where it lived to the end.
    """

    interval_s: float
    times_ms: tuple[int, ...] = ()
    series: dict[str, Series] = dataclasses.field(default_factory=dict)
    cpu_s: float = 0.0
    lived_s: float = 0.0
    failure: str = ""

    def of(self, kind: str) -> dict[str, Series]:
        """Return the series of a kind, such as "clock_mhz", by what they are of."""
        prefix = f"{kind}."
        return {
            name[len(prefix) :]: values
            for name, values in self.series.items()
            if name.startswith(prefix)
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Conditions:
    """How the machine was set and what it did while it was measured.

    Attributes:
        before: Before the warm-up.
        after: After the last round.
        watch: In between.
        gpu_before: Who else worked on the GPU before any contender was opened.
        gpu_after: Who else did after the last round, when the contenders were still open; its load
            is theirs.
        setting: What was set for the measurement and restored after it; None where nothing was.
    """

    before: Snapshot
    after: Snapshot
    watch: Watch
    gpu_before: GpuUsers = dataclasses.field(default_factory=GpuUsers)
    gpu_after: GpuUsers = dataclasses.field(default_factory=GpuUsers)

    setting: Setting | None = None

    @property
    def power_mode(self) -> str | None:
        """The power mode of the whole measurement; None where it changed or is not known."""
        mode = self.before.power_mode
        return mode if mode == self.after.power_mode else None


def known(values: Series) -> list[int]:
    """Return the readings that there are."""
    return [value for value in values if value is not None]
