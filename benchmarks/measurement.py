"""The JSON of a measurement: what was timed, on what, what came out, and whether it counts.

`NAME.latency.json` is written and read here only.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from benchmarks.accuracy.end_to_end import EndToEnd
from benchmarks.accuracy.scores import Accuracy
from benchmarks.agreement import Agreement
from benchmarks.conditions.environment import Environment
from benchmarks.conditions.gpu_state import GpuUse
from benchmarks.conditions.validity import Finding, OtherLoad
from benchmarks.conditions.watched import Conditions
from benchmarks.energy.result import ContenderEnergy, EnergyRecord
from benchmarks.latency import Schedule
from benchmarks.network import Network, network_of
from benchmarks.paired_statistics import Comparison, LatencySummary
from benchmarks.scenarios.running import ScenarioResults
from engines.imaging.class_names import is_sure
from engines.manifest import Manifest
from engines.verdict import verdict_of

SCHEMA = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answers:
    """What the check of an artefact found, before it was timed.

    Attributes:
        agreement: Share of images with the reference's class.
        images: Images of the check.
        on: Which, in words.
        of: What the reference is, in words.
        accuracy: Share of images whose label is predicted; None without labels.
        sure: Whether it was said which class a label means; else the accuracy may be of another
            order of classes.
    """

    agreement: float
    images: int
    on: str
    of: str
    accuracy: float | None = None
    sure: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class Artefact:
    """The file behind a contender, as its manifest describes it.

    Attributes:
        merges: Whether its tokens merge; None where the manifest does not describe the model.
        network: What it computes; None likewise.
        answers: What its own check found; None where it was not checked, or names no class.
        check: What the checks of it and of what it was made from came to; "" where it was not kept.
    """

    file: str
    sha256: str
    precision: str
    weights: str
    target: str
    macs: int | None = None
    merges: bool | None = None
    network: Network | None = None
    answers: Answers | None = None
    check: Literal["", "passed", "failed", "unchecked"] = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Predicted:
    """What a contender was predicted to take, from the peaks of what it ran on.

    Attributes:
        low_ns: Lower end of the range, nanoseconds of one run of the batch.
        high_ns: Upper end.
        device: What it was predicted for, with its power mode.
        source: Where the constants of the prediction come from.
    """

    low_ns: int
    high_ns: int
    device: str
    source: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class ContenderResult:
    """What came out for one contender.

    Attributes:
        name: Unique within the measurement.
        latency: Time of one run of the whole batch.
        against: Comparison with the baseline; None for the baseline itself.
        agreement: Outputs against those of its reference; None for a reference.
        runtime: What the engine says of itself: runtime, version, provider, threads, device.
        artefact: None for a peer, and for a graph without a manifest.
        peak_share: (multiply-adds / latency) / measured GEMM peak; None when not measured.
        device_p50_ns: Median by the device's own clock, measured after the rounds; None where
            there is no such clock. The latency has the launch and the wait in it, too.
        samples_ns: Every sample, in the order of the rounds, so that anyone can count again.
        energy: What an image costs; None where it was not asked for.
        accuracy: How it answers on the user's images; None where there were none.
        end_to_end: From an encoded image to its class; None without files of images.
        scenarios: What came out alone, after the rounds; None where no scenario was asked for.
        predicted: What was predicted of it; None where nothing could be.
    """

    name: str
    latency: LatencySummary
    against: Comparison | None
    agreement: Agreement | None
    runtime: dict[str, str]
    artefact: Artefact | None
    samples_ns: tuple[int, ...]
    peak_share: float | None = None
    device_p50_ns: int | None = None
    energy: ContenderEnergy | None = None
    scenarios: ScenarioResults | None = None
    accuracy: Accuracy | None = None
    end_to_end: EndToEnd | None = None
    predicted: Predicted | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Absent:
    """A contender that was asked for and could not take part."""

    name: str
    reason: str
    fix: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measurement:
    """One paired measurement and its evidence.

    One that is not valid keeps its samples and ratios, and every verdict in it is "not valid".

    Attributes:
        baseline: Name of the contender that the others are compared with.
        batch: Images of one run.
        contenders: The baseline first, the others as the caller gave them.
        absent: Contenders that could not take part, with the reason.
        findings: What a reader must know; see `valid`.
        schedule: How it was measured.
        rounds: Rounds behind every number.
        warmup_rounds: Rounds thrown away before.
        duration_ns: Duration of the measured rounds.
        other_load: What others used of the processors meanwhile.
        environment: What it was measured on.
        gemm_peak_macs_per_s: Measured peak of this CPU; None when not measured.
        attempts: How often the rounds were measured; only the last ones are kept.
        command: The command line, word by word.
        plain: Name of the contender that is the plain model, the same network without merging;
            None without one.
        gpu: The GPU that engines ran on, and its state; None where none did, or nobody tells.
        energy: What the energy of the contenders rests on; None where it was not asked for.
        conditions: How the machine was set and what it did meanwhile; None in measurements of
            before that was recorded.
        scenario_conditions: Likewise while scenarios ran; None without one.
        schema: Version of this layout.
    """

    baseline: str
    batch: int
    contenders: tuple[ContenderResult, ...]
    absent: tuple[Absent, ...]
    findings: tuple[Finding, ...]
    schedule: Schedule
    rounds: int
    warmup_rounds: int
    duration_ns: int
    other_load: OtherLoad
    environment: Environment
    gemm_peak_macs_per_s: float | None = None
    attempts: int = 1
    command: tuple[str, ...] = ()
    plain: str | None = None
    gpu: GpuUse | None = None
    energy: EnergyRecord | None = None
    conditions: Conditions | None = None
    scenario_conditions: Conditions | None = None
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        if not self.valid:
            object.__setattr__(self, "contenders", tuple(map(_without_verdict, self.contenders)))

    @property
    def valid(self) -> bool:
        """Whether no finding makes the numbers misleading."""
        return not self.spoiled_by

    @property
    def spoiled_by(self) -> tuple[Finding, ...]:
        """The findings that make the numbers misleading."""
        return tuple(finding for finding in self.findings if finding.severity == "invalid")

    def result(self, name: str) -> ContenderResult:
        """Return the result of one contender; KeyError when it did not take part."""
        by_name = {contender.name: contender for contender in self.contenders}
        return by_name[name]


def _without_verdict(result: ContenderResult) -> ContenderResult:
    against, energy = result.against, result.energy
    if against is not None:
        against = dataclasses.replace(against, verdict="not valid")
    if energy is not None:
        energy = energy.without_verdict()
    return dataclasses.replace(result, against=against, energy=energy)


def describe_artefact(manifest: Manifest) -> Artefact:
    """Return what a measurement records of an artefact's manifest."""
    return Artefact(
        file=manifest.file,
        sha256=manifest.sha256,
        precision=manifest.precision,
        weights=manifest.weights,
        target=manifest.target,
        macs=manifest.model.macs if manifest.model else None,
        merges=None if manifest.model is None else bool(manifest.model.merged_blocks),
        network=network_of(manifest),
        answers=_answers(manifest),
        check=verdict_of(manifest).state,
    )


def _answers(manifest: Manifest) -> Answers | None:
    """Return what the last row of the artefact's own check says; a task's tables say nothing."""
    parity = manifest.parity or {}
    rows = parity.get("rows") or ()
    if not rows or rows[-1].get("failures"):
        return None
    agreement, accuracy = rows[-1].get("agreement"), rows[-1].get("accuracy")
    if agreement is None:
        return None
    return Answers(
        agreement=agreement,
        images=rows[-1].get("images", 0),
        on=parity.get("images", ""),
        of=parity.get("reference", ""),
        accuracy=accuracy,
        sure=is_sure(parity.get("labels")),
    )
