"""What scenarios came to, a line each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from benchmarks.scenarios.cold import ColdStart
from benchmarks.scenarios.offline import OfflineResult
from benchmarks.scenarios.running import ScenarioResults
from benchmarks.scenarios.soak import SoakResult
from benchmarks.scenarios.stream import StreamResult
from engines.plurals import counted

if TYPE_CHECKING:
    from benchmarks.measurement import Measurement

_MS = 1e6


def format_scenarios(measurement: Measurement) -> list[str]:
    """Return a line for each scenario of each contender; none where none was asked for."""
    return [
        f"{result.name}, {line}"
        for result in measurement.contenders
        if result.scenarios is not None
        for line in scenario_lines(result.scenarios)
    ]


def scenario_lines(found: ScenarioResults) -> Iterator[str]:
    """Yield what each scenario of one contender came to."""
    yield from map(_stream, found.stream)
    if found.offline is not None:
        yield _offline(found.offline)
    if found.cold is not None:
        yield _cold(found.cold)
    if found.soak is not None:
        yield _soak(found.soak)


def _stream(found: StreamResult) -> str:
    response = found.response
    rare = "" if response.p999_ns is None else f", p99.9 {response.p999_ns / _MS:.1f}"
    return (
        f"stream of {found.fps:g} a second: {found.missed} of {counted(found.arrived, 'arrival')} "
        f"without an answer before the next ({found.dropped} dropped, {found.late} late) · answers "
        f"after p50 {response.p50_ns / _MS:.1f}, p99 {response.p99_ns / _MS:.1f}{rare} ms · "
        f"{found.busy:.0%} busy"
    )


def _offline(found: OfflineResult) -> str:
    best = found.best
    others = ", ".join(
        f"{one.batch}: {one.images_per_s:.1f}" for one in found.batches if one is not best
    )
    rest = f" (batch {others})" if others else ""
    ended = f" · {found.ended}" if found.ended else ""
    return f"offline: {best.images_per_s:.1f} images/s at batch {best.batch}{rest}{ended}"


def _cold(found: ColdStart) -> str:
    memory = [
        f"{words} {count / 1e6:.0f} MB"
        for words, count in (("peak", found.peak_bytes), ("the machine gave", found.taken_bytes))
        if count is not None
    ]
    return (
        f"cold start: first answer after {found.first_answer_s:.2f} s (opening "
        f"{found.open_s:.2f} s, first run {found.first_run_s * 1e3:.1f} ms, next "
        f"{found.next_run_s * 1e3:.1f} ms) · {', '.join(memory) or 'memory not stated'}"
    )


def _soak(found: SoakResult) -> str:
    first, last = found.windows[0], found.windows[-1]
    change = "" if found.slowdown is None else f", {found.slowdown:.2f} of the first"
    return (
        f"soak of {found.minutes:g} min: {found.images_per_s:.1f} images/s · p50 "
        f"{first.p50_ns / _MS:.1f} ms at first, {last.p50_ns / _MS:.1f} at last{change}"
    )
