"""Whether a measurement may be believed, and what spoiled it.

A finding is "invalid" when the number would mislead, "doubtful" when a reader must know.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from benchmarks.latency import Rounds
from benchmarks.paired_statistics import FloatArray
from engines.errors import MeasurementError

FEWEST_ROUNDS = 20  # below this, a 95 % interval of a median rests on a handful of samples
_DRIFT = 0.05  # of the ratio or of the latency, from the first third to the last
_OUTLIER = 1.5  # times the median
_OUTLIER_SHARE = 0.05
_FOREIGN_DOUBTFUL = 0.05  # of the processors that this process may use
_FOREIGN_INVALID = 0.25
_FOREIGN_CORES = 0.5  # of one processor: on sixteen, a busy one is only 6 %
_STEAL_DOUBTFUL = 0.02
_JIFFIES_PER_S = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """Something that a reader of the number must know.

    Attributes:
        severity: "invalid" or "doubtful".
        what: The fact, with the value found and the limit.
        fix: What to do about it.
    """

    severity: Literal["invalid", "doubtful"]
    what: str
    fix: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class MachineUse:
    """Counters of the machine at one moment; None where the system does not state it.

    Attributes:
        wall_s: A steady clock.
        own_s: Processor time of this process, all threads.
        busy_s: Processor time of everybody, all processors, without steal.
        steal_s: Processor time that the hypervisor gave to others.
        processors: Processors that the counters cover.
    """

    wall_s: float
    own_s: float
    busy_s: float | None
    steal_s: float | None
    processors: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class OtherLoad:
    """What others used of the machine between two moments.

    Attributes:
        foreign: Share (0 to 1) of all processors that other programs used; None when unknown.
        steal: The same of what the hypervisor took away.
        processors: How many processors that is of; None in measurements of before it was recorded.
    """

    foreign: float | None
    steal: float | None
    processors: int | None = None


def machine_use(*, wall_s: float, own_s: float, stat: Path = Path("/proc/stat")) -> MachineUse:
    """Read the counters of the machine.

    Args:
        wall_s: Now, from a steady clock.
        own_s: Processor time of this process so far.
        stat: The kernel's counters.
    """
    try:
        # cpu user nice system idle iowait irq softirq steal guest guest_nice
        # (user and nice already contain the two guest columns)
        ticks = [int(word) for word in stat.read_text("utf-8").splitlines()[0].split()[1:]]
        busy = (sum(ticks[:3]) + sum(ticks[5:7])) / _JIFFIES_PER_S
        steal = ticks[7] / _JIFFIES_PER_S
    except (OSError, ValueError, IndexError):
        return MachineUse(
            wall_s=wall_s, own_s=own_s, busy_s=None, steal_s=None, processors=os.cpu_count() or 1
        )
    return MachineUse(
        wall_s=wall_s, own_s=own_s, busy_s=busy, steal_s=steal, processors=os.cpu_count() or 1
    )


def other_load(before: MachineUse, after: MachineUse) -> OtherLoad:
    """Return what others used of the machine between two moments."""
    capacity = (after.wall_s - before.wall_s) * before.processors
    if capacity <= 0 or None in (before.busy_s, after.busy_s, before.steal_s, after.steal_s):
        return OtherLoad(foreign=None, steal=None)
    assert before.busy_s is not None and after.busy_s is not None
    assert before.steal_s is not None and after.steal_s is not None
    foreign = (after.busy_s - before.busy_s) - (after.own_s - before.own_s)
    return OtherLoad(
        foreign=min(max(foreign / capacity, 0.0), 1.0),
        steal=min(max((after.steal_s - before.steal_s) / capacity, 0.0), 1.0),
        processors=before.processors,
    )


def check(rounds: Rounds, *, baseline: str, load: OtherLoad) -> tuple[Finding, ...]:
    """Return everything that speaks against believing these rounds."""
    return (
        *_few_rounds(rounds),
        *_drift(rounds, baseline),
        *_outliers(rounds),
        *foreign_load(load),
    )


def is_worth_repeating(findings: Sequence[Finding], *, rounds: int) -> bool:
    """Whether noise spoiled a measurement, so that another try may be valid.

    Args:
        findings: On the measurement.
        rounds: It had; where they were too few, another try has too few again.
    """
    return rounds >= FEWEST_ROUNDS and any(found.severity == "invalid" for found in findings)


def refuse_invalid(findings: Sequence[Finding]) -> None:
    """Raise for findings that make the number misleading.

    Raises:
        MeasurementError: At least one finding is "invalid".
    """
    fatal = [finding for finding in findings if finding.severity == "invalid"]
    if fatal:
        raise MeasurementError(
            "; ".join(finding.what for finding in fatal),
            where="this measurement",
            fix="; ".join(dict.fromkeys(finding.fix for finding in fatal)),
        )


def _few_rounds(rounds: Rounds) -> Iterator[Finding]:
    count = len(rounds.latency_ns)
    if count < FEWEST_ROUNDS:
        yield Finding(
            severity="invalid",
            what=f"{count} rounds were measured, {FEWEST_ROUNDS} are needed",
            fix="allow more time, or measure fewer contenders or a smaller batch",
        )
    if not rounds.warmed_up:
        yield Finding(
            severity="doubtful",
            what=f"latencies still changed after {rounds.warmup_rounds} warm-up rounds",
            fix="close other programs, or allow a longer warm-up",
        )


def _drift(rounds: Rounds, baseline: str) -> Iterator[Finding]:
    log_latency = np.log(rounds.latency_ns.astype(np.float64))
    log_baseline = log_latency[:, rounds.names.index(baseline)]
    for index, name in enumerate(rounds.names):
        if name == baseline:
            change = _change(log_baseline)
            if change is not None:
                yield Finding(
                    severity="doubtful",
                    what=f"the latency of {name} moved by {change:+.0%} from the first third to the"
                    " last (clock or thermal trend); paired ratios cancel it out",
                    fix="let the machine cool down, or fix its clocks",
                )
            continue
        change = _change(log_latency[:, index] - log_baseline)
        if change is not None:
            yield Finding(
                severity="invalid",
                what=f"the ratio of {name} to {baseline} moved by {change:+.0%} from the first"
                f" third to the last, {_DRIFT:.0%} are allowed",
                fix="measure again on a quiet machine, for longer",
            )


def _change(log_values: FloatArray) -> float | None:
    """Return the change of the median between the outer thirds, None when it is noise."""
    third = len(log_values) // 3
    if third < 5:
        return None
    first, last = log_values[:third], log_values[-third:]
    change = float(np.median(last) - np.median(first))
    # 1.4826 MAD estimates the deviation, 1.25 / sqrt(n) scales it to that of a median.
    spread = [1.4826 * float(np.median(np.abs(part - np.median(part)))) for part in (first, last)]
    noise = 1.25 / math.sqrt(third) * math.hypot(*spread)
    return math.expm1(change) if abs(change) > max(math.log1p(_DRIFT), 4 * noise) else None


def _outliers(rounds: Rounds) -> Iterator[Finding]:
    slow = rounds.latency_ns > _OUTLIER * np.median(rounds.latency_ns, axis=0)
    shares = zip(rounds.names, slow.mean(axis=0), strict=True)
    many = [f"{name} {share:.0%}" for name, share in shares if share > _OUTLIER_SHARE]
    if many:
        yield Finding(
            severity="doubtful",
            what=f"runs that took over {_OUTLIER} times the median: {', '.join(many)}",
            fix="close other programs; read p99 with care",
        )


def foreign_load(load: OtherLoad) -> Iterator[Finding]:
    """Yield what a reader must know of what others used of the processors."""
    if load.foreign is None:
        yield Finding(
            severity="doubtful",
            what="this system does not show how much of the processors other programs used",
            fix="make sure that nothing else runs",
        )
    elif load.foreign > _FOREIGN_DOUBTFUL:
        yield Finding(
            severity="invalid" if load.foreign > _FOREIGN_INVALID else "doubtful",
            what=f"other programs used {load.foreign:.0%} of the processors meanwhile"
            f" (doubtful above {_FOREIGN_DOUBTFUL:.0%}, invalid above {_FOREIGN_INVALID:.0%})",
            fix="close other programs and measure again",
        )
    elif load.foreign * (load.processors or 1) > _FOREIGN_CORES:
        cores = load.foreign * (load.processors or 1)
        yield Finding(
            severity="doubtful",
            what=f"other programs kept {cores:.1f} of {load.processors} processors busy meanwhile"
            f" (doubtful above {_FOREIGN_CORES})",
            fix="close other programs and measure again",
        )
    if load.steal is not None and load.steal > _STEAL_DOUBTFUL:
        yield Finding(
            severity="doubtful",
            what=f"the hypervisor took {load.steal:.0%} of the processor time away",
            fix="use a dedicated machine for numbers to publish",
        )
