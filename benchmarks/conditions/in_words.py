"""The conditions of a measurement as a reader wants them: a line, and label and value."""

from __future__ import annotations

from benchmarks.conditions.watched import Conditions, known
from engines.machine.clocks import Clock, are_held
from engines.machine.snapshot import is_temperature


def condition_facts(conditions: Conditions) -> list[tuple[str, str]]:
    """Return what was known of the machine while it measured, as label and value."""
    facts = [
        ("power mode", conditions.before.power_mode or ""),
        ("clocks", _clocks(conditions)),
        ("temperature", _temperature(conditions)),
        ("slowed down by", _slowed(conditions)),
        ("fan", ", ".join(f"{name} {at}" for name, at in conditions.after.fans.items())),
        ("watched", _watched(conditions)),
    ]
    return [(label, value) for label, value in facts if value]


def condition_line(conditions: Conditions) -> str:
    """Return the same in one line: what it was set to, how warm it was, whether it was slowed."""
    mode = conditions.before.power_mode
    parts = [f"power mode {mode}" if mode else "", _clocks(conditions), _temperature(conditions)]
    told = [part for part in parts if part]
    if not told:
        return "the machine shows neither clocks nor temperatures"
    slowed = _slowed(conditions)
    return "; ".join([*told, f"slowed down by {slowed}" if slowed else "nothing slowed it down"])


def _clocks(conditions: Conditions) -> str:
    found = conditions.before.clocks
    if not found:
        return ""
    held = all(clock.is_held for clock in found) if are_held(found) is None else are_held(found)
    named = [clock for clock in found if not clock.name.startswith("cpu")]
    processors = [clock for clock in found if clock.name.startswith("cpu")]
    parts = [_range(clock.name, [clock]) for clock in named]
    parts += [_range("CPU", processors)] if processors else []
    governor = ", ".join(conditions.before.governors)
    how = "clocks held" if held else f"clocks free{f' ({governor})' if governor else ''}"
    return f"{how}: {', '.join(parts)}"


def _range(name: str, clocks: list[Clock]) -> str:
    least = min(clock.least_hz for clock in clocks) / 1e6
    most = max(clock.most_hz for clock in clocks) / 1e6
    return f"{name} {most:.0f} MHz" if least == most else f"{name} {least:.0f} to {most:.0f} MHz"


def _temperature(conditions: Conditions) -> str:
    """Return the range of the warmest sensor."""
    ranges = {}
    for name, values in conditions.watch.of("temperature_mc").items():
        told = [at for at in known(values) if is_temperature(at)]
        if told:
            ranges[name] = (min(told), max(told))
    if not ranges:
        return ""
    name = max(ranges, key=lambda sensor: ranges[sensor][1])
    low, high = (at / 1000 for at in ranges[name])
    first = "" if f"{low:.0f}" == f"{high:.0f}" else f"{low:.0f} to "
    return f"{first}{high:.0f} °C ({name})"


def _slowed(conditions: Conditions) -> str:
    """Return what slowed the machine down meanwhile."""
    before, after = conditions.before, conditions.after
    found = [name for name, count in after.events.items() if count > before.events.get(name, count)]
    found += [name for name, at in conditions.watch.of("slowed").items() if any(known(at))]
    return ", ".join(dict.fromkeys([*found, *after.slowed_by]))


def _watched(conditions: Conditions) -> str:
    watch = conditions.watch
    if watch.failure:
        return f"no: the watcher {watch.failure}"
    cost = f", {watch.cpu_s / watch.lived_s:.2%} of a core" if watch.lived_s > 0 else ""
    return f"{len(watch.times_ms)} readings, {watch.interval_s:g} s apart{cost}"
