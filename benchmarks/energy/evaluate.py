"""From a course and its readings to millijoules an image, or to the reason why there are none."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from benchmarks.conditions.validity import Finding
from benchmarks.energy.course import Course, Plan, Segment, Span, period_of, steady_runs
from benchmarks.energy.curve import Curve, curve_of
from benchmarks.energy.interval import Slices, compare_energy, gross_of, net_of, power_of
from benchmarks.energy.result import ContenderEnergy, EnergyRecord, Estimate
from benchmarks.energy.sensor import Sensor

FEWEST_READINGS = 20
"""Different readings of steady work below which there is no number."""
_GAP_S = 0.5
_GAP_PERIODS = 4
_IDLE_DIFFERS = 0.1  # of the power at rest, from before to after
_LATE = 1.2  # times the settling time that a sensor's period asks for


def evaluate(
    course: Course, sensor: Sensor, *, batch: int, baseline: str, seed: int
) -> tuple[EnergyRecord, dict[str, ContenderEnergy]]:
    """Return what a measurement keeps of it, and the energy of each contender by name.

    Args:
        course: What was done and read.
        sensor: What it was read from.
        batch: Images of one run.
        baseline: Name of the contender that the others are compared with.
        seed: Seed of the resampling.
    """
    names = list(dict.fromkeys(segment.name for segment in course.segments))
    period_s = period_of(course, sensor)
    curve = curve_of(course.record, sensor, sensor.total)
    record = EnergyRecord(
        source=sensor.source,
        covers=sensor.covers,
        rule=sensor.rule,
        total=sensor.total_names(),
        rails=sensor.rails,
        plan=course.plan,
        averaging_ms=sensor.averaging_s * 1e3,
        period_ms=None if period_s is None else round(period_s * 1e3, 3),
        readings=len(course.record.ns),
    )
    if isinstance(curve, str):
        lost = f"the sensor was lost: {course.record.failure}" if course.record.failure else curve
        return record, {name: ContenderEnergy(why_not=lost) for name in names}
    times = (curve.ns[1:] - curve.ns[0]) // 1_000_000
    powers = np.diff(curve.mj) / (np.diff(curve.ns) / 1e9)
    idle = [_idle(span, curve, course, sensor, period_s, seed) for span in course.idle]
    record = dataclasses.replace(
        record,
        idle_before=idle[0],
        idle_after=idle[1],
        findings=_idle_findings(idle),
        times_ms=tuple(int(time) for time in times),
        total_mw=tuple(round(power) for power in powers),
    )
    cut = {name: _cut(name, course, curve, batch, period_s, sensor) for name in names}
    found = {
        name: ContenderEnergy(why_not=slices)
        if isinstance(slices, str)
        else _energy(name, slices, course, curve, sensor, idle, seed)
        for name, slices in cut.items()
    }
    return record, rebased(found, record, baseline=baseline, seed=seed)


def rebased(
    found: Mapping[str, ContenderEnergy], record: EnergyRecord | None, *, baseline: str, seed: int
) -> dict[str, ContenderEnergy]:
    """Return the same energies compared with another of their contenders.

    Args:
        found: By name.
        record: What they rest on.
        baseline: Whom the others are compared with.
        seed: Seed of the resampling.
    """
    reference = found.get(baseline)
    rests = [] if record is None else [record.idle_before, record.idle_after]
    rest_mw = sum(one.value for one in rests if one is not None) / 2
    result = {}
    for name, one in found.items():
        gross = net = None
        if reference is not None and one is not reference and one.gross and reference.gross:
            own, other = slices_of(one), slices_of(reference)
            gross = compare_energy(own, other, baseline=baseline, seed=seed)
            if one.net and reference.net:
                net = compare_energy(own, other, baseline=baseline, seed=seed, idle_mw=rest_mw)
        result[name] = dataclasses.replace(one, against=gross, against_net=net)
    return result


def slices_of(energy: ContenderEnergy) -> Slices:
    """Return the slices that a measurement keeps."""
    return Slices(
        mj=np.array(energy.slices_uj, np.float64) / 1e3,
        images=np.array(energy.slices_images, np.float64),
        seconds=np.array(energy.slices_us, np.float64) / 1e6,
        segment=np.repeat(np.arange(len(energy.segments)), energy.segments),
    )


def _energy(
    name: str,
    kept: ContenderEnergy,
    course: Course,
    curve: Curve,
    sensor: Sensor,
    idle: Sequence[Estimate | None],
    seed: int,
) -> ContenderEnergy:
    slices = slices_of(kept)
    seconds = float(slices.seconds.sum())
    net, why_no_net = None, "the power at rest is not known"
    before, after = idle
    if before is not None and after is not None:
        net, why_no_net = net_of(slices, (before, after), seed=seed), ""
        if net.low <= 0:
            net, why_no_net = None, "work and rest cannot be told apart with this sensor"
    return dataclasses.replace(
        kept,
        gross=gross_of(slices, seed=seed),
        net=net,
        why_no_net=why_no_net,
        power_mw=float(slices.mj.sum()) / seconds,
        rails_mw=_rails_mw(name, course, sensor),
        seconds=seconds,
        images=int(slices.images.sum()),
    )


def _cut(
    name: str, course: Course, curve: Curve, batch: int, period_s: float | None, sensor: Sensor
) -> ContenderEnergy | str:
    """Cut the steady work of one contender into slices, or say what is wrong with it."""
    plan, limit_s = course.plan, _gap_limit_s(sensor, period_s)
    needed_s = sensor.averaging_s + 2 * (period_s or 0.0)
    if needed_s > _LATE * plan.settle_s:
        return (
            f"the sensor shows a new value every {period_s or 0:.1f} s only, and contenders took "
            f"turns after {plan.settle_s + plan.steady_s:.1f} s"
        )
    energy: list[int] = []
    duration: list[int] = []
    images: list[int] = []
    counts: list[int] = []
    readings = 0
    for segment in (one for one in course.segments if one.name == name):
        edges = _edges(segment, plan)
        times = segment.ends_ns[edges]
        gap_s = curve.longest_gap_s(int(times[0]), int(times[-1]))
        if gap_s > limit_s:
            return _lost(course, gap_s, limit_s)
        readings += curve.changes(int(times[0]), int(times[-1]))
        counts.append(len(edges) - 1)
        images += [int(runs) * batch for runs in np.diff(edges)]
        duration += [int(ns) // 1000 for ns in np.diff(times)]
        energy += [
            round(curve.energy_mj(int(start), int(end)) * 1e3)
            for start, end in itertools.pairwise(times)
        ]
    if readings < FEWEST_READINGS:
        stands = "the sensor stood still: " if not readings else ""
        return (
            f"{stands}{readings} different readings in {sum(duration) / 1e6:.1f} s of steady work, "
            f"{FEWEST_READINGS} are needed"
        )
    return ContenderEnergy(
        readings=readings,
        slices_uj=tuple(energy),
        slices_us=tuple(duration),
        slices_images=tuple(images),
        segments=tuple(counts),
    )


def _edges(segment: Segment, plan: Plan) -> list[int]:
    """Return at the ends of which runs the slices begin and end; none is a short one."""
    first, last = steady_runs(segment.start_ns, segment.ends_ns, plan)
    edges = [first]
    for index in range(first + 1, last + 1):
        if segment.ends_ns[index] - segment.ends_ns[edges[-1]] >= plan.slice_s * 1e9:
            edges.append(index)
    return [*edges[:-1], last] if len(edges) > 1 else [first, last]


def _idle(
    span: Span,
    curve: Curve,
    course: Course,
    sensor: Sensor,
    period_s: float | None,
    seed: int,
) -> Estimate | None:
    """Return the power at rest; None where it was not read throughout."""
    start, end = span
    if curve.longest_gap_s(start, end) > _idle_gap_s(sensor, period_s, end - start):
        return None
    count = max(int((end - start) / 1e9 / course.plan.slice_s), 2)
    edges = np.linspace(start, end, count + 1)
    mj = np.diff(np.interp(edges, curve.ns, curve.mj))
    return power_of(mj / (np.diff(edges) / 1e9), seed=seed)


def _idle_findings(idle: Sequence[Estimate | None]) -> tuple[Finding, ...]:
    before, after = idle
    if before is None or after is None:
        return (
            Finding(
                severity="doubtful",
                what="the power at rest was not read throughout, so nothing can be subtracted",
                fix="measure again",
            ),
        )
    change = after.value / before.value - 1 if before.value > 0 else 0.0
    if abs(change) <= _IDLE_DIFFERS:
        return ()
    return (
        Finding(
            severity="doubtful",
            what=f"the power at rest was {before.value / 1e3:.2f} W before the work and "
            f"{after.value / 1e3:.2f} W after it ({change:+.0%}, {_IDLE_DIFFERS:.0%} are usual)",
            fix="let the machine rest and close other programs, then measure again; the interval "
            "of the net energy holds both",
        ),
    )


def _gap_limit_s(sensor: Sensor, period_s: float | None) -> float:
    usual = max(sensor.interval_s, period_s or 0.0)
    return max(_GAP_S, _GAP_PERIODS * usual)


def _idle_gap_s(sensor: Sensor, period_s: float | None, span_ns: int) -> float:
    """Return the longest gap at rest: a counter that few use may stand still for a while."""
    limit_s = _gap_limit_s(sensor, period_s)
    return max(limit_s, span_ns / 1e9 / 2) if sensor.quantity == "energy" else limit_s


def _lost(course: Course, gap_s: float, limit_s: float) -> str:
    if course.record.failure:
        return f"the sensor was lost: {course.record.failure}"
    if not np.isfinite(gap_s):
        return "the sensor was not read throughout the work"
    return f"the sensor gave nothing for {gap_s:.1f} s of the work, {limit_s:.1f} s are allowed"


def _rails_mw(name: str, course: Course, sensor: Sensor) -> dict[str, float]:
    """Return the mean power of each rail in the segments of one contender, where it is known."""
    found = {}
    for index, rail in enumerate(sensor.rails):
        curve = curve_of(course.record, sensor, [index])
        if isinstance(curve, str):
            continue
        spans = [
            (int(one.ends_ns[first]), int(one.ends_ns[last]))
            for one in course.segments
            if one.name == name
            for first, last in [steady_runs(one.start_ns, one.ends_ns, course.plan)]
        ]
        if all(curve.longest_gap_s(*span) < course.plan.steady_s for span in spans):
            mj = sum(curve.energy_mj(*span) for span in spans)
            found[rail] = round(mj / sum(end - start for start, end in spans) * 1e9, 1)
    return found
