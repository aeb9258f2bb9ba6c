"""Run the scenarios that are asked for, one contender at a time."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence

from benchmarks.latency import Clock, Progress
from benchmarks.scenarios.asked import Scenario
from benchmarks.scenarios.cold import ColdStart
from benchmarks.scenarios.offline import OfflineResult, run_offline
from benchmarks.scenarios.soak import SoakResult, run_soak
from benchmarks.scenarios.stream import StreamResult, run_stream

SHORTEST_S = 10.0
"""How long a stream lasts at least, so that some images meet what a machine does now and then."""

_WARM_UP_RUNS = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScenarioResults:
    """What came out for one contender; None and () are what was not asked for."""

    stream: tuple[StreamResult, ...] = ()
    offline: OfflineResult | None = None
    soak: SoakResult | None = None
    cold: ColdStart | None = None


def run_scenarios(
    asked: Sequence[Scenario],
    bind: Callable[[int], Callable[[], None]],
    *,
    batch: int,
    batches: tuple[int, int],
    seconds: float,
    clock: Clock = time.perf_counter_ns,
    progress: Progress | None = None,
) -> ScenarioResults:
    """Run the scenarios of one contender, the longest last.

    Args:
        asked: What to run.
        bind: Returns the call that runs a batch of this size.
        batch: Images of one run of a stream and of a soak.
        batches: Smallest and largest batch that the artefact takes, for "offline".
        seconds: How long a stream lasts, and each batch of "offline".
        clock: Nanoseconds.
        progress: Called after each window of a soak; returning False stops like Ctrl-C.

    Raises:
        EngineError: A run failed.
        UsageError: A stream has too few images.
    """
    streams: list[StreamResult] = []
    offline: OfflineResult | None = None
    soak: SoakResult | None = None
    order = ("stream", "offline", "soak")
    wanted = [one for one in asked if one.kind in order]
    for scenario in sorted(wanted, key=lambda one: order.index(one.kind)):
        if scenario.kind == "offline":
            low, high = batches
            offline = run_offline(bind, low=low, high=high, seconds=seconds, clock=clock)
            continue
        run_once = bind(batch)
        for _ in range(_WARM_UP_RUNS):
            run_once()
        if scenario.kind == "stream":
            lasts = max(seconds, SHORTEST_S)
            streams.append(
                run_stream(run_once, fps=scenario.amount, seconds=lasts, batch=batch, clock=clock)
            )
        else:
            soak = run_soak(
                run_once, minutes=scenario.amount, batch=batch, clock=clock, progress=progress
            )
    return ScenarioResults(stream=tuple(streams), offline=offline, soak=soak)
