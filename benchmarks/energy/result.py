"""What came out: millijoules an image with their intervals, or the reason why there are none."""

from __future__ import annotations

import dataclasses
from typing import Literal

from benchmarks.conditions.validity import Finding
from benchmarks.conditions.watched import Conditions
from benchmarks.energy.course import Plan
from benchmarks.paired_statistics import CONFIDENCE

EnergyVerdict = Literal["less", "more", "no difference shown", "not valid"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number with its 95 % interval.

    Attributes:
        value: The number.
        low: Lower end.
        high: Upper end.
    """

    value: float
    low: float
    high: float

    def figures(self) -> str:
        """Return "31.2 [30.8, 31.7]", with as many digits as the interval is worth."""
        width = self.high - self.low
        digits = 3 if width < 0.05 else 2 if width < 0.5 else 1 if width < 5 else 0
        return f"{self.value:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"


@dataclasses.dataclass(frozen=True, kw_only=True)
class EnergyComparison:
    """One contender's energy an image against the baseline's, from segments that took turns.

    Attributes:
        baseline: Name of the contender it is compared with.
        ratio: Energy / energy of the baseline; below 1 is less.
        low: Lower end of its interval.
        high: Upper end.
        verdict: In words.
        confidence: Confidence of the interval.
    """

    baseline: str
    ratio: float
    low: float
    high: float
    verdict: EnergyVerdict
    confidence: float = CONFIDENCE

    def in_brief(self) -> str:
        """Return "31 % less [28, 34]", or that no difference is shown."""
        if self.verdict not in ("less", "more"):
            return self.verdict
        ends = sorted(abs(100 * (1 - end)) for end in (self.low, self.high))
        share = abs(100 * (1 - self.ratio))
        digits = 0 if ends[1] - ends[0] >= 2 else 1
        low, high = (f"{end:.{digits}f}" for end in ends)
        return f"{share:.{digits}f} % {self.verdict} [{low}, {high}]"

    def sentence(self) -> str:
        """Return it in words, such as "31 % less [28, 34] energy than plain"."""
        if self.verdict == "not valid":
            return f"energy not known against {self.baseline}"
        if self.verdict in ("less", "more"):
            return f"{self.in_brief()} energy an image than {self.baseline}"
        return (
            f"no difference in energy shown against {self.baseline} "
            f"(ratio {self.ratio:.3f} [{self.low:.3f}, {self.high:.3f}])"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ContenderEnergy:
    """Energy of one contender; either `gross` is there or `why_not`.

    Attributes:
        gross: Millijoules an image of all that the sensor covers, while the contender works.
        net: The same without what is used at rest; None where rest and work cannot be told apart.
        why_not: Why there is no number; "" where there is one.
        why_no_net: Why there is no net number; "" where there is one.
        power_mw: Mean power at work.
        rails_mw: Mean power of each rail at work, those outside the total too.
        images: Images of the steady work, counted.
        seconds: Duration of the steady work.
        readings: Different readings behind it.
        against: Gross energy against the baseline; None for the baseline itself.
        against_net: Net energy against the baseline; None where one of the two has none.
        slices_uj: Energy of each slice of the steady work in microjoules, in order.
        slices_us: Its duration in microseconds.
        slices_images: Its images.
        segments: Slices of each segment, in order.
    """

    gross: Estimate | None = None
    net: Estimate | None = None
    why_not: str = ""
    why_no_net: str = ""
    power_mw: float | None = None
    rails_mw: dict[str, float] = dataclasses.field(default_factory=dict)
    images: int = 0
    seconds: float = 0.0
    readings: int = 0
    against: EnergyComparison | None = None
    against_net: EnergyComparison | None = None
    slices_uj: tuple[int, ...] = ()
    slices_us: tuple[int, ...] = ()
    slices_images: tuple[int, ...] = ()
    segments: tuple[int, ...] = ()

    def without_verdict(self) -> ContenderEnergy:
        """Return the same with "not valid" for its verdicts."""
        pair = (
            one and dataclasses.replace(one, verdict="not valid")
            for one in (self.against, self.against_net)
        )
        against, against_net = pair
        return dataclasses.replace(self, against=against, against_net=against_net)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EnergyRecord:
    """What the energy of a measurement rests on.

    Attributes:
        source: Where it was read: "INA sensors", "tegrastats", "NVML", "nvidia-smi", "RAPL".
        covers: What the total measures, in words.
        rule: Which rails make the total, in words.
        total: Their names.
        rails: Names of all rails that were read.
        idle_before: Power at rest before the work, in milliwatts; None where it is not known.
        idle_after: The same after it.
        averaging_ms: Over how long the sensor averages, as its maker states.
        period_ms: Usual time between two different readings at work; None where too few tell.
        readings: Readings in all, equal ones too.
        plan: How long it was worked and rested.
        findings: What a reader must know.
        conditions: How the machine was set and what it did while contenders worked.
        times_ms: When the sensor was read, since the first reading.
        total_mw: Mean power of the total between a reading and the one before, rounded.
    """

    source: str
    covers: str
    rule: str
    total: tuple[str, ...]
    rails: tuple[str, ...]
    plan: Plan
    idle_before: Estimate | None = None
    idle_after: Estimate | None = None
    averaging_ms: float = 0.0
    period_ms: float | None = None
    readings: int = 0
    findings: tuple[Finding, ...] = ()
    conditions: Conditions | None = None
    times_ms: tuple[int, ...] = ()
    total_mw: tuple[int, ...] = ()
