"""What a set of paired latency samples says: percentiles, ratios, intervals and a verdict.

Pure functions of arrays. All contenders run once in every round, so what the machine does in one
round (a clock step, a neighbour) hits them alike and cancels in the ratio of that round.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Nanoseconds = NDArray[np.int64]
FloatArray = NDArray[np.float64]
Verdict = Literal["faster", "slower", "no difference shown", "not valid"]
"""What a comparison shows; "not valid" is that of a measurement which noise has spoiled."""

CONFIDENCE = 0.95
PRACTICAL_MARGIN = 0.01
"""A ratio nearer to 1 than this is not called a difference: repeating a whole measurement, with
new processes and other memory addresses, moves a ratio by about as much."""
_FEWEST_FOR_A_VERDICT = 6  # no 95 % interval of a median exists for fewer samples
_FEWEST_FOR_P999 = 1000
_RESAMPLES = 2000
_RESAMPLES_AT_ONCE = 200  # bounds the memory of the bootstrap to 200 x rounds numbers


@dataclasses.dataclass(frozen=True, kw_only=True)
class LatencySummary:
    """One contender's latency. Every percentile is a sample that happened.

    Attributes:
        min_ns: Fastest sample.
        p50_ns: Median: at least half of the samples were at most this slow.
        p90_ns: Likewise for 90 %.
        p95_ns: Likewise for 95 %.
        p99_ns: Likewise for 99 %; with fewer than 100 samples it is the slowest one.
        p999_ns: Likewise for 99.9 %; None with fewer than 1000 samples.
        mean_ns: Arithmetic mean.
        cov: Coefficient of variation, standard deviation / mean.
        images_per_s: Batch size / p50.
    """

    min_ns: int
    p50_ns: int
    p90_ns: int
    p95_ns: int
    p99_ns: int
    mean_ns: float
    cov: float
    images_per_s: float
    p999_ns: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """One contender against the baseline, from ratios taken round by round.

    Attributes:
        baseline: Name of the contender it is compared with.
        ratio: Median of latency / latency of the baseline; below 1 is faster.
        low: Lower end of the bootstrap interval of `ratio`.
        high: Upper end.
        confidence: Confidence of the interval, 0.95.
        speedup: 1 / ratio.
        verdict: In words.
    """

    baseline: str
    ratio: float
    low: float
    high: float
    confidence: float
    speedup: float
    verdict: Verdict

    def words(self) -> str:
        """Return the verdict with its factor: "1.32x faster", "3.52x slower".

        The other verdicts stand alone: a factor beside them would suggest one.
        """
        if self.verdict not in ("faster", "slower"):
            return self.verdict
        return f"{max(self.ratio, self.speedup):.2f}x {self.verdict}"

    def sentence(self) -> str:
        """Return the comparison in words, with the interval of the ratio where it is valid."""
        if self.verdict == "not valid":
            return f"not known against {self.baseline}: the measurement is not valid"
        return (
            f"{self.words()} against {self.baseline}, "
            f"ratio {self.ratio:.3f} [{self.low:.3f}, {self.high:.3f}]"
        )


def percentile(ordered: Nanoseconds, percent: float) -> int:
    """Return the sample at `percent`, never a value between two samples.

    Args:
        ordered: (n,) samples in rising order, n >= 1.
        percent: 0 to 100, at most one digit after the point.

    Source: trtexec, samples/common/sampleReporting.cpp, `findPercentile`.
    """
    above = round((100 - percent) * 10) * len(ordered) // 1000
    return int(ordered[max(len(ordered) - 1 - above, 0)])


def summarise(latency_ns: Nanoseconds, *, batch: int) -> LatencySummary:
    """Return the summary of one contender's samples.

    Args:
        latency_ns: (n,) samples in the order they were taken, n >= 1.
        batch: Images of one run.
    """
    ordered = np.sort(latency_ns)
    p50, p90, p95, p99 = (percentile(ordered, percent) for percent in (50, 90, 95, 99))
    mean = float(ordered.mean())
    return LatencySummary(
        min_ns=int(ordered[0]),
        p50_ns=p50,
        p90_ns=p90,
        p95_ns=p95,
        p99_ns=p99,
        mean_ns=mean,
        cov=float(ordered.std()) / mean if mean else 0.0,
        images_per_s=batch * 1e9 / p50 if p50 else 0.0,
        p999_ns=percentile(ordered, 99.9) if len(ordered) >= _FEWEST_FOR_P999 else None,
    )


def compare(
    latency_ns: Nanoseconds,
    baseline_ns: Nanoseconds,
    *,
    baseline: str,
    seed: int = 0,
    margin: float = PRACTICAL_MARGIN,
) -> Comparison:
    """Compare two contenders that ran in the same rounds.

    Everything is done on logarithms, so swapping the two gives exactly the reciprocal.

    Args:
        latency_ns: (n,) one sample a round, all positive.
        baseline_ns: (n,) the baseline's sample of the same round, all positive.
        baseline: The baseline's name, for the sentence.
        seed: Seed of the bootstrap.
        margin: How far from 1 the whole interval must lie to be called a difference.
    """
    log_ratio = np.log(latency_ns.astype(np.float64)) - np.log(baseline_ns.astype(np.float64))
    ratio = float(np.exp(np.median(log_ratio)))
    low, high = (float(np.exp(bound)) for bound in bootstrap_median(log_ratio, seed=seed))
    return Comparison(
        baseline=baseline,
        ratio=ratio,
        low=low,
        high=high,
        confidence=CONFIDENCE,
        speedup=1 / ratio,
        verdict=decide(low, high, margin=margin)
        if len(log_ratio) >= _FEWEST_FOR_A_VERDICT
        else "no difference shown",
    )


def decide(low: float, high: float, *, margin: float = PRACTICAL_MARGIN) -> Verdict:
    """Return the verdict on an interval of ratios; below 1 is faster."""
    if high < 1 / (1 + margin):
        return "faster"
    if low > 1 + margin:
        return "slower"
    return "no difference shown"


def bootstrap_median(values: FloatArray, *, seed: int = 0) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the median of consecutive measurements.

    Blocks of neighbouring rounds are drawn, not single rounds: what slows a machine down lasts
    longer than a round, and single draws would take such a spell for independent evidence.

    Args:
        values: (n,) in the order they were measured, n >= 1.
        seed: Seed of the resampling.

    Source: Politis and Romano 1992, circular block bootstrap; blocks of n ** (1/3).
    """
    drawn = block_draws(len(values), seed=seed)
    medians = np.concatenate([np.median(values[indices], axis=1) for indices in drawn])
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(medians, [tail, 1 - tail])
    return float(low), float(high)


def block_draws(n: int, *, seed: int = 0) -> Iterator[NDArray[np.int64]]:
    """Yield the indices of 2000 resamples of `n` consecutive values, (200, n) at a time.

    Each is made of blocks of n ** (1/3) neighbours; the last value has the first as a neighbour.
    """
    block = max(1, round(n ** (1 / 3)))
    blocks = -(-n // block)
    generator = np.random.default_rng(seed)
    for _ in range(0, _RESAMPLES, _RESAMPLES_AT_ONCE):
        first = generator.integers(0, n, size=(_RESAMPLES_AT_ONCE, blocks, 1))
        yield ((first + np.arange(block)) % n).reshape(_RESAMPLES_AT_ONCE, -1)[:, :n]
