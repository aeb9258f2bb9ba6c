"""Images on a clock that is ours: what is dropped, what is late, and what a response counts."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest

from benchmarks.scenarios.stream import StreamResult, run_stream
from engines.errors import UsageError

MS = 1_000_000


@dataclasses.dataclass
class FakeClock:
    """A clock that moves only while a run lasts or an arrival is waited for."""

    now: int = 0

    def __call__(self) -> int:
        return self.now

    def wait_until(self, moment: int) -> None:
        self.now = max(self.now, moment)


def streamed(runs_ms: Sequence[float], *, fps: float = 100, seconds: float = 0.1) -> StreamResult:
    clock, left = FakeClock(), list(runs_ms)

    def run_once() -> None:
        clock.now += round(left.pop(0) * MS)

    found = run_stream(
        run_once, fps=fps, seconds=seconds, batch=1, clock=clock, wait_until=clock.wait_until
    )
    assert not left
    return found


def test_a_fast_engine_answers_every_image_in_time() -> None:
    found = streamed([4] * 10)
    assert (found.arrived, found.dropped, found.late, found.missed) == (10, 0, 0, 0)
    assert found.response.p50_ns == found.response.p99_ns == 4 * MS
    assert found.busy == pytest.approx(40 / 94)  # the last answer ends the stream


def test_an_image_waits_for_the_one_before_it() -> None:
    # The first run ends at 17 ms: the second image has waited since 10 ms, and is done at 19.
    found = streamed([17, 2, *[1] * 8])
    assert (found.dropped, found.late) == (0, 1)
    assert sorted({sample // MS for sample in (found.response.min_ns, found.response.p99_ns)}) == [
        1, 17,
    ]  # fmt: skip
    assert found.response.mean_ns == pytest.approx((17 + 9 + 8 * 1) / 10 * MS)


def test_the_newest_of_several_is_taken() -> None:
    # Until 35 ms: images of 10, 20 and 30 ms have come; the last of them is answered at 36.
    found = streamed([35, 1, *[1] * 6])
    assert (found.arrived, found.dropped, found.late) == (10, 2, 1)
    assert found.response.mean_ns == pytest.approx((35 + 6 + 6 * 1) / 8 * MS)


def test_an_engine_that_is_too_slow_answers_what_it_can() -> None:
    # 25 ms for images every 10 ms: it takes those of 0, 20, 50, 70 ms and the last.
    found = streamed([25] * 5)
    assert (found.dropped, found.late) == (5, 5)
    assert found.busy == 1.0
    assert found.missed == found.arrived


def test_too_few_images_are_refused() -> None:
    with pytest.raises(UsageError, match=r"0\.1 images a second make 1 in 10 s"):
        streamed([], fps=0.1, seconds=10)


def test_a_real_clock_keeps_the_rate() -> None:
    found = run_stream(lambda: None, fps=200, seconds=0.2, batch=4)
    assert found.arrived == 40
    assert found.arrived - found.dropped >= 1
    assert found.busy < 1
