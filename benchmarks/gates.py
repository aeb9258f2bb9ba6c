"""Limits on what was measured, for a CI that must fail: a budget, and a measurement of before.

A limit is kept, or missed, or its quantity was not measured; the last is never taken for the first.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from benchmarks.limits import HOW, Limit
from benchmarks.paired_statistics import bootstrap_median, compare
from benchmarks.place import place_of
from benchmarks.report.summary_line import energy_mj
from engines.errors import BudgetError, InputError

if TYPE_CHECKING:
    from benchmarks.measurement import ContenderResult, Measurement


@dataclasses.dataclass(frozen=True, kw_only=True)
class Regression:
    """A contender now and before.

    Attributes:
        contender: Its name.
        ratio: Median latency now over that of before.
        low: Lower end of its 95 % interval.
        high: Upper end.
        how: "paired": both ran in the same rounds; "apart": before is a file, and the interval is
            as wide as both medians allow, which says nothing of another day's machine.
    """

    contender: str
    ratio: float
    low: float
    high: float
    how: Literal["paired", "apart"]

    def sentence(self) -> str:
        """Return it in words."""
        how = "in the same rounds" if self.how == "paired" else "measured apart, not paired"
        return (
            f"{self.contender}: {self.ratio:.3f} [{self.low:.3f}, {self.high:.3f}] of the "
            f"baseline, {how}"
        )


def judge_budget(
    measurement: Measurement, limits: Sequence[Limit], *, rival: str | None = None
) -> list[str]:
    """Return how every judged contender keeps every limit, a sentence each.

    Args:
        measurement: A valid one.
        limits: The budget.
        rival: Name of the contender that the others are compared with, which no limit is for.

    Raises:
        BudgetError: A limit is missed, or its quantity was not measured, or nothing counts.
    """
    _require_valid(measurement, "--budget")
    kept: list[str] = []
    missed: list[str] = []
    for result in judged(measurement, rival):
        for limit in limits:
            value = _MEASURED[limit.quantity](measurement, result)
            if value is None:
                raise BudgetError(
                    f"{limit.quantity} of {result.name} was not measured, so {limit.text} is not "
                    "known to be kept",
                    where="--budget",
                    fix=HOW.get(limit.quantity, "measure again"),
                )
            words = f"{result.name}: {limit.quantity} {limit.shown(value)} of {limit.text}"
            (kept if value <= limit.most else missed).append(words)
    if missed:
        raise BudgetError(
            f"the budget is missed by {'; '.join(missed)}",
            where="--budget",
            fix="make it cheaper (a smaller precision, an earlier merge), or raise the budget",
        )
    return kept


def regressions(
    now: Measurement, before: Measurement, *, where: str, rival: str | None = None
) -> list[Regression]:
    """Return each contender now against that of its name before, or against the only one.

    Args:
        now: The measurement.
        before: The one to compare with.
        where: Its file.
        rival: See `judge_budget`.

    Raises:
        BudgetError: One of both is not valid.
        InputError: They are of different devices or batches, or have no contender in common.
    """
    _require_valid(now, "--baseline")
    _require_valid(before, where)
    if now.batch != before.batch:
        raise InputError(
            f"the baseline was measured at batch {before.batch}, this at batch {now.batch}",
            where=where,
            fix="measure the baseline at the same batch",
        )
    ours, theirs = judged(now, rival), judged(before)
    pairs = []
    for result in ours:
        named = [one for one in theirs if one.name == result.name] or theirs
        if len(named) == 1:
            pairs.append(_beside(now, before, result, named[0], where))
    if len(pairs) < len(ours):
        raise InputError(
            f"not each of {', '.join(one.name for one in ours)} was measured there, but "
            f"{', '.join(one.name for one in theirs)}",
            where=where,
            fix="measure the same names, or name another baseline",
        )
    return pairs


def judge_regressions(found: Sequence[Regression], *, most_percent: float) -> list[str]:
    """Return how every contender keeps the limit, a sentence each.

    Args:
        found: See `regressions`.
        most_percent: By how many per cent a median may be slower than before.

    Raises:
        BudgetError: One is slower than that.
    """
    limit = 1 + most_percent / 100
    missed = [one for one in found if one.ratio > limit]
    if missed:
        shown = all(one.low > limit for one in missed)
        raise BudgetError(
            f"more than {most_percent:g} % slower than the baseline: "
            f"{'; '.join(one.sentence() for one in missed)}",
            where="--max-regress",
            fix="find what became slower"
            if shown
            else "the interval allows less, too: measure with more --rounds, or find what became "
            "slower",
        )
    return [
        one.sentence() + ("" if one.high <= limit else f"; up to {limit:.3f} is allowed, and the "
                          "interval reaches beyond")
        for one in found
    ]  # fmt: skip


def judged(measurement: Measurement, rival: str | None = None) -> list[ContenderResult]:
    """Return the contenders that limits are for: without the plain model, peers and a rival.

    Raises:
        BudgetError: There is none, so that nothing would be judged.
    """
    others = [one for one in measurement.contenders if one.name not in (measurement.plain, rival)]
    found = [one for one in others if one.artefact is not None] or others
    if not found:
        raise BudgetError(
            "there is nothing to judge: the only contender is the one to compare with",
            where="--against",
            fix="name an artefact beside it, or leave --against out",
        )
    return found


def _beside(
    now: Measurement,
    before: Measurement,
    result: ContenderResult,
    then: ContenderResult,
    where: str,
) -> Regression:
    _require_same_place(now, before, result, then, where)
    here = _same_bytes(now, then)
    if here is not None and here is not result:
        pair = compare(
            np.array(result.samples_ns, np.int64),
            np.array(here.samples_ns, np.int64),
            baseline=here.name,
            seed=now.schedule.seed,
        )
        return Regression(
            contender=result.name, ratio=pair.ratio, low=pair.low, high=pair.high, how="paired"
        )
    ends = [_median_interval(one, now.schedule.seed) for one in (result, then)]
    return Regression(
        contender=result.name,
        ratio=result.latency.p50_ns / then.latency.p50_ns,
        low=ends[0][0] / ends[1][1],
        high=ends[0][1] / ends[1][0],
        how="apart",
    )


def _same_bytes(now: Measurement, then: ContenderResult) -> ContenderResult | None:
    """Return the contender of now that is the very artefact of then."""
    if then.artefact is None:
        return None
    return next(
        (
            one
            for one in now.contenders
            if one.artefact is not None and one.artefact.sha256 == then.artefact.sha256
        ),
        None,
    )


def _median_interval(result: ContenderResult, seed: int) -> tuple[float, float]:
    samples = np.array(result.samples_ns, np.float64)
    low, high = bootstrap_median(np.log(samples), seed=seed)
    return float(np.exp(low)), float(np.exp(high))


def _require_same_place(
    now: Measurement,
    before: Measurement,
    result: ContenderResult,
    then: ContenderResult,
    where: str,
) -> None:
    places = [place_of(now, result).name, place_of(before, then).name]
    if places[0] != places[1]:
        raise InputError(
            f"the baseline was measured on {places[1]}, this on {places[0]}",
            where=where,
            fix="measure the baseline on the same device, in the same power mode",
        )


def _require_valid(measurement: Measurement, where: str) -> None:
    if not measurement.valid:
        reasons = "; ".join(one.what for one in measurement.spoiled_by)
        raise BudgetError(
            f"nothing is judged by a measurement that is not valid: {reasons}",
            where=where,
            fix=measurement.spoiled_by[0].fix,
        )


def _memory(measurement: Measurement, result: ContenderResult) -> float | None:
    """Return what a cold start took: of the process, or of the machine, the GPU of a board too."""
    cold = None if result.scenarios is None else result.scenarios.cold
    known = [] if cold is None else [cold.peak_bytes, cold.taken_bytes]
    return max((one for one in known if one is not None), default=None)


_MEASURED: dict[str, Callable[[Measurement, ContenderResult], float | None]] = {
    "p50": lambda measurement, result: result.latency.p50_ns,
    "p90": lambda measurement, result: result.latency.p90_ns,
    "p95": lambda measurement, result: result.latency.p95_ns,
    "p99": lambda measurement, result: result.latency.p99_ns,
    "energy": energy_mj,
    "memory": _memory,
}
