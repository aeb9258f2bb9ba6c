"""What the machine's own state says against believing a measurement."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator, Mapping
from typing import Literal

from benchmarks.conditions.validity import Finding
from benchmarks.conditions.watched import Conditions, Watch, known
from engines.machine.clocks import Clock
from engines.machine.snapshot import is_temperature

_STALLED_S = 3.0
"""Without a reading for so long, whatever happened meanwhile was not seen."""
_FELL = 0.03  # of a clock that is held
_MOVED = 0.10  # of a processor's clock, from the first third to the last
_QUOTA_INVALID = 0.05  # of the time
_SWAP_DOUBTFUL_MIB = 2
_SWAP_INVALID_MIB = 32
_LEAST_MEMORY_MIB = 200
_GPU_DOUBTFUL = 0.05  # of the time, before anything of ours used it
_GPU_INVALID = 0.25
_COOL = (
    "let the machine cool down, cool it better, or take a power mode with a lower limit "
    "(--power-mode); then measure again"
)
_LEAVE = "leave the machine's settings alone while it measures, and measure again"
Severity = Literal["invalid", "doubtful"]


def check_conditions(
    conditions: Conditions, *, rounds_s: float, on_gpu: bool, on_jetson: bool
) -> tuple[Finding, ...]:
    """Return what speaks against believing rounds that ran under these conditions.

    Args:
        conditions: What was known of the machine.
        rounds_s: How long the rounds took.
        on_gpu: Whether a contender ran on a GPU.
        on_jetson: Whether that is a Jetson's, whose clocks the kernel tells.
    """
    return (
        *_watch(conditions.watch, rounds_s),
        *_settings(conditions),
        *_slowed(conditions, rounds_s),
        *_clocks(conditions, on_gpu=on_gpu, on_jetson=on_jetson),
        *_sensors(conditions.watch, on_gpu=on_gpu),
        *_memory(conditions.watch),
        *(_neighbours(conditions) if on_gpu else ()),
    )


def _invalid(what: str, fix: str) -> Finding:
    return Finding(severity="invalid", what=what, fix=fix)


def _doubtful(what: str, fix: str) -> Finding:
    return Finding(severity="doubtful", what=what, fix=fix)


def _watch(watch: Watch, rounds_s: float) -> Iterator[Finding]:
    """Certify nothing that nobody watched to its end."""
    again = "measure again; `dmesg` names what the kernel killed"
    if watch.failure:
        yield _invalid(f"nobody watched the machine to the end: the watcher {watch.failure}", again)
        return
    if not watch.series:
        yield _doubtful(
            "this system shows nothing of what the machine did meanwhile",
            "make sure yourself that nothing else runs and that clocks stay where they are",
        )
        return
    needed = 2 + min(6, int(rounds_s / (4 * watch.interval_s)))
    if len(watch.times_ms) < needed:
        yield _invalid(
            f"the machine was looked at {len(watch.times_ms)} times during the rounds, {needed} "
            "are needed",
            again,
        )
    times = sorted((0, *watch.times_ms))  # the rounds begin at 0
    longest_s = max(late - early for early, late in itertools.pairwise((*times, times[-1]))) / 1000
    if longest_s > max(_STALLED_S, 4 * watch.interval_s):
        yield _invalid(
            f"the watcher stood still for {longest_s:.1f} s, so what happened then was not seen",
            "close other programs and measure again",
        )


def _settings(conditions: Conditions) -> Iterator[Finding]:
    before, after = conditions.before, conditions.after
    numbers = set(known(conditions.watch.series.get("power_mode_number", ())))
    if before.power_mode != after.power_mode:
        yield _invalid(
            f"the power mode went from {before.power_mode or 'an unknown one'} to "
            f"{after.power_mode or 'an unknown one'} during the measurement",
            _LEAVE,
        )
    elif len(numbers) > 1:
        yield _invalid(
            f"the power mode {before.power_mode} was changed and set again during the measurement",
            _LEAVE,
        )
    if before.governors != after.governors:
        yield _invalid(
            f"the governor of the processors' clocks went from {', '.join(before.governors)} to "
            f"{', '.join(after.governors)} during the measurement",
            _LEAVE,
        )


def _slowed(conditions: Conditions, rounds_s: float) -> Iterator[Finding]:
    before, after, watch = conditions.before, conditions.after, conditions.watch
    for name, count in after.events.items():
        more = count - before.events.get(name, count)
        if more > 0:
            yield _invalid(f"{name}: the machine was slowed down {_times(more)}", _COOL)
    for name, count in after.alarms.items():
        more = count - before.alarms.get(name, count)
        if more > 0:
            what = f"{name} was noticed {_times(more)}; it lowers no clock here"
            yield _doubtful(what, "look at the power supply and its cable")
    seen = {
        name: (sum(state > 0 for state in states), len(states))
        for name, states in ((name, known(all_)) for name, all_ in watch.of("slowed").items())
    }
    for name, (active, readings) in seen.items():
        if active:
            yield _invalid(
                f"{name} slowed the machine down in {active} of {readings} readings", _COOL
            )
    for name in after.slowed_by:
        if not seen.get(name, (0, 0))[0]:
            yield _invalid(f"{name} slowed the machine down at the end", _COOL)
    for name, values in watch.of("temperature_mc").items():
        limit = before.slows_at_mc.get(name)
        warmest = max((at for at in known(values) if is_temperature(at)), default=None)
        if limit is not None and warmest is not None and warmest >= limit:
            yield _invalid(
                f"{name} reached {warmest / 1000:.1f} °C; from {limit / 1000:.0f} °C on the kernel "
                "slows the machine down",
                _COOL,
            )
    waited = (after.quota_us or 0) - (before.quota_us or 0)
    if before.quota_us is not None and waited > 0:
        share = waited / 1e6 / max(rounds_s, 1e-3)
        severity: Severity = "invalid" if share > _QUOTA_INVALID else "doubtful"
        yield Finding(
            severity=severity,
            what=f"the container's processor quota held it up for {waited / 1e6:.2f} s",
            fix="take fewer threads (--threads), or raise the container's limit",
        )


def _clocks(conditions: Conditions, *, on_gpu: bool, on_jetson: bool) -> Iterator[Finding]:
    watch = conditions.watch
    held = {clock.name: clock for clock in conditions.before.clocks}
    for name, limits in ((name, known(all_)) for name, all_ in watch.of("cap_mhz").items()):
        if not _matters(name, on_gpu=on_gpu):
            continue
        if limits and min(limits) < limits[0]:
            yield _invalid(
                f"the upper limit of the {_named(name)} clock fell from {limits[0]} to "
                f"{min(limits)} MHz",
                _COOL,
            )
    running = {name: known(values) for name, values in watch.of("clock_mhz").items()}
    for name, found in running.items():
        clock = held.get(name)
        if clock is None or not clock.is_held or not _matters(name, on_gpu=on_gpu):
            continue
        at_mhz = _held_mhz(clock)
        lower = [mhz for mhz in found if mhz < (1 - _FELL) * at_mhz]
        if lower:
            yield _invalid(
                f"the {_named(name)} clock is held at {at_mhz:.0f} MHz and fell to {min(lower)} "
                f"MHz in {len(lower)} of {len(found)} readings",
                _COOL,
            )
    yield from _processors_fell(running, held)
    if on_gpu and on_jetson:
        yield from _gpu_is_free(held.get("GPU"))


def _matters(name: str, *, on_gpu: bool) -> bool:
    """Return whether a clock or sensor says something of what ran.

    A GPU that nobody uses may be slow or switched off, and its sensor with it.
    """
    return on_gpu or "gpu" not in name.lower()


def _held_mhz(clock: Clock) -> float:
    """Return where a held clock stays; the memory's limits lie apart all the same."""
    at_hz = clock.most_hz if clock.least_hz == clock.most_hz else clock.now_hz
    return (at_hz or clock.most_hz) / 1e6


def _processors_fell(
    running: Mapping[str, list[int]], held: Mapping[str, Clock]
) -> Iterator[Finding]:
    """Say where the clocks of the processors fell together, as they do when a chip is warm."""
    free = [
        values
        for name, values in running.items()
        if name.startswith("cpu") and not (name in held and held[name].is_held)
    ]
    readings = [statistics.fmean(row) for row in zip(*free, strict=False)] if free else []
    third = len(readings) // 3
    if third < 2:
        return
    first, last = statistics.median(readings[:third]), statistics.median(readings[-third:])
    if last < (1 - _MOVED) * first:
        yield _doubtful(
            f"the processors' clocks fell from {first:.0f} to {last:.0f} MHz during the "
            "measurement; paired ratios cancel it out",
            "let the machine cool down, or fix its clocks",
        )


def _gpu_is_free(clock: Clock | None) -> Iterator[Finding]:
    if clock is None:
        yield _doubtful(
            "the board does not tell its GPU's clock, so whether it fell is not known",
            "look at it with sudo jetson_clocks --show",
        )
    elif not clock.is_held:
        yield _doubtful(
            f"the GPU's clock may move between {clock.least_hz / 1e6:.0f} and "
            f"{clock.most_hz / 1e6:.0f} MHz; latencies at batch 1 depend on where it is",
            "hold it while it measures: --clocks lock",
        )


def _sensors(watch: Watch, *, on_gpu: bool) -> Iterator[Finding]:
    """Say which sensors fell silent: what they would have shown is not known."""
    for kind in ("temperature_mc", "clock_mhz"):
        for name, values in watch.of(kind).items():
            if not _matters(name, on_gpu=on_gpu):
                continue
            tells = [_tells(kind, value) for value in values]
            if tells[0] and len(tells) > 2 and not any(tells[-2:]):
                yield _invalid(
                    f"the sensor {_named(name)} fell silent after {sum(tells)} of {len(tells)} "
                    "readings",
                    f"see what the board says of it (sudo dmesg | grep -i {name.split()[0]}), and "
                    "measure again",
                )


def _tells(kind: str, value: int | None) -> bool:
    return value is not None and (kind != "temperature_mc" or is_temperature(value))


def _memory(watch: Watch) -> Iterator[Finding]:
    swapped = 0
    for values in map(known, watch.of("swapped_mib").values()):
        swapped += values[-1] - values[0] if values else 0
    if swapped >= _SWAP_DOUBTFUL_MIB:
        severity: Severity = "invalid" if swapped >= _SWAP_INVALID_MIB else "doubtful"
        yield Finding(
            severity=severity,
            what=f"{swapped} MiB went to or came from swap during the measurement (doubtful from "
            f"{_SWAP_DOUBTFUL_MIB}, invalid from {_SWAP_INVALID_MIB})",
            fix="close other programs, measure fewer contenders at once, or a smaller batch",
        )
    available = known(watch.series.get("available_mib", ()))
    if available and min(available) < _LEAST_MEMORY_MIB:
        yield _doubtful(
            f"only {min(available)} MiB of memory were free",
            "close other programs, measure fewer contenders at once, or a smaller batch",
        )


def _neighbours(conditions: Conditions) -> Iterator[Finding]:
    before, after = conditions.gpu_before, conditions.gpu_after
    load = before.load or 0.0
    there = {one.pid: one for one in before.listed or ()}
    since = {one.pid: one for one in after.listed or ()}
    names = ", ".join(f"{one.name} ({one.pid})" for one in there.values())
    fix = "let other programs on the GPU end (nvidia-smi lists them), and measure again"
    if load > _GPU_DOUBTFUL:
        severity: Severity = "invalid" if load > _GPU_INVALID else "doubtful"
        yield Finding(
            severity=severity,
            what=f"others kept the GPU busy for {load:.0%} of the time before anything was "
            f"measured{f': {names}' if names else ''} (doubtful above {_GPU_DOUBTFUL:.0%}, invalid "
            f"above {_GPU_INVALID:.0%})",
            fix=fix,
        )
    elif there:
        yield _doubtful(f"others hold the GPU, and were idle before: {names}", fix)
    changed = [one for pid, one in since.items() if pid not in there]
    changed += [one for pid, one in there.items() if after.listed is not None and pid not in since]
    if changed and before.listed is not None:
        listed = ", ".join(f"{one.name} ({one.pid})" for one in changed)
        yield _invalid(f"others came to the GPU or left it during the measurement: {listed}", fix)


def _named(name: str) -> str:
    return {"EMC": "memory (EMC)"}.get(name, name)


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
