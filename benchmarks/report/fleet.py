"""Results of many measurements as rows: boards and engines side by side, and who is on the front.

An engine is on the front of its device when no other one there is at least as good in everything
that is known of all of them, and better in something. Only like is compared with like: the same
network at the same batch. What was not valid or failed its check is shown and never ranked; nor are
random weights beside trained ones, or engines whose answers nobody knows beside others.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence

from benchmarks.conditions.in_words import condition_line
from benchmarks.measurement import ContenderResult, Measurement
from benchmarks.place import place_of
from benchmarks.report.gathering import Found
from benchmarks.report.summary_line import answers_of, energy_mj, summary_line


@dataclasses.dataclass(frozen=True, kw_only=True)
class FleetRow:
    """One engine in one measurement; None and "" are what is not known.

    Attributes:
        file: Where the measurement was found.
        device: Board, GPU or CPU.
        mode: Power mode of a board.
        software: What ran it.
        engine: Name of the contender.
        network: As "ViT-B/16".
        merge: As `--merge` says it; "none" for a plain network.
        precision: Of the artefact.
        batch: Images of one run.
        p50_ms: Median latency of one run.
        p99_ms: 99 % of the runs took at most so long.
        images_per_s: Batch over the median.
        energy_mj: Millijoules of an image.
        accuracy: Share of right labels in the artefact's own check.
        agreement: Share of images with the class of the reference of its check.
        agrees_with: Whose classes these are.
        against: Comparison with the baseline of its measurement, in words.
        predicted_ms: Range that was predicted of it.
        conditions: What a reader must know of the measurement, a sentence each.
        date: Of the measurement.
        invalid: Why the measurement does not count; "" where it does.
        unranked: Why it is not ranked though it counts; "" where it is.
        on_front: Whether no other engine on its device is better; None where it is not ranked.
        summary: The result in one line; "" where it does not count.
    """

    file: str
    device: str
    mode: str
    software: str
    engine: str
    network: str
    merge: str
    precision: str
    batch: int
    p50_ms: float
    p99_ms: float
    images_per_s: float
    energy_mj: float | None
    accuracy: float | None
    agreement: float | None
    agrees_with: str
    against: str
    predicted_ms: tuple[float, float] | None
    conditions: tuple[str, ...]
    date: str
    invalid: str = ""
    unranked: str = ""
    on_front: bool | None = None
    summary: str = ""

    @property
    def place(self) -> str:
        """The device in its mode."""
        return f"{self.device}, {self.mode}" if self.mode else self.device

    @property
    def subject(self) -> tuple[str, int]:
        """What is compared with like: the network, and the batch."""
        return self.network or _UNNAMED, self.batch


@dataclasses.dataclass(frozen=True, kw_only=True)
class Group:
    """All engines of one network at one batch.

    Attributes:
        network: As "ViT-B/16".
        batch: Images of one run.
        rows: By device, the fastest valid engine of each first.
        ranked_by: What the fronts of its devices were judged by, in words.
    """

    network: str
    batch: int
    rows: tuple[FleetRow, ...]
    ranked_by: str


def groups_of(found: Sequence[Found]) -> tuple[Group, ...]:
    """Return the rows of measurements, grouped by network and batch, with their fronts."""
    rows = [_row(one, result) for one in found for result in one.measurement.contenders]
    by_subject: dict[tuple[str, int], list[FleetRow]] = {}
    for row in rows:
        by_subject.setdefault(row.subject, []).append(row)
    return tuple(_group(subject, by_subject[subject]) for subject in sorted(by_subject))


def front(rows: Sequence[FleetRow]) -> tuple[list[bool], tuple[str, ...]]:
    """Return which rows no other one beats, and by what they were judged.

    Args:
        rows: At least one; all of them count.
    """
    known = {
        name: [value(row) for row in rows]
        for name, value in _OBJECTIVES.items()
        if all(value(row) is not None for row in rows)
    }
    if "accuracy" in known or len({row.agrees_with for row in rows}) > 1:
        known.pop("agreement", None)
    costs = list(zip(*known.values(), strict=True))
    beaten = [any(_beats(other, mine) for other in costs) for mine in costs]
    return [not one for one in beaten], tuple(known)


def _agreement(row: FleetRow) -> float | None:
    return None if row.agreement is None or not row.agrees_with else -row.agreement


_OBJECTIVES: dict[str, Callable[[FleetRow], float | None]] = {
    "latency": lambda row: row.p50_ms,
    "energy": lambda row: row.energy_mj,
    "accuracy": lambda row: None if row.accuracy is None else -row.accuracy,
    "agreement": _agreement,
}
"""What an engine is judged by; the lower the better."""


def _beats(other: Sequence[float], mine: Sequence[float]) -> bool:
    pairs = list(zip(other, mine, strict=True))
    return all(one <= two for one, two in pairs) and any(one < two for one, two in pairs)


def _group(subject: tuple[str, int], rows: Sequence[FleetRow]) -> Group:
    by_place: dict[str, list[FleetRow]] = {}
    for row in rows:
        by_place.setdefault(row.place, []).append(row)
    shown: list[FleetRow] = []
    judged: dict[str, None] = {}
    ordered = sorted(by_place.values(), key=lambda members: min(map(_rank, members)))
    for members in ordered:
        ranked, by = _ranked(members)
        judged.update(dict.fromkeys(by))
        shown += sorted(ranked, key=_rank)
    return Group(
        network=subject[0], batch=subject[1], rows=tuple(shown), ranked_by=", ".join(judged)
    )


def _ranked(rows: Sequence[FleetRow]) -> tuple[list[FleetRow], tuple[str, ...]]:
    """Return the rows of one device with their place on its front."""
    valid = [row for row in rows if not row.invalid and row.unranked in ("", _RANDOM)]
    trained = [row for row in valid if not row.unranked]
    compared = [row for row in trained if _knows_answers(row)]
    counted = compared or trained or valid
    if not counted:
        return list(rows), ()
    on_front, by = front(counted)
    marks = dict(zip(map(id, counted), on_front, strict=True))
    found = []
    for row in rows:
        if id(row) in marks:
            found.append(dataclasses.replace(row, on_front=marks[id(row)], unranked=""))
        elif row.invalid or row.unranked:
            found.append(row)
        else:
            found.append(dataclasses.replace(row, unranked=_UNCOMPARED))
    return found, by


def _knows_answers(row: FleetRow) -> bool:
    return row.accuracy is not None or _agreement(row) is not None


def _rank(row: FleetRow) -> tuple[bool, float]:
    return bool(row.invalid), row.p50_ms


_UNNAMED = "Networks that nothing describes"
_RANDOM = "random weights"
_FAILED = "it failed its check"
_UNCOMPARED = "its answers are not known"


def _row(found: Found, result: ContenderResult) -> FleetRow:
    measurement, artefact = found.measurement, result.artefact
    place = place_of(measurement, result)
    network = None if artefact is None else artefact.network
    said = answers_of(result)
    return FleetRow(
        file=found.file,
        device=place.device,
        mode=place.mode,
        software=place.software,
        engine=result.name,
        network="" if network is None else network.name,
        merge=_merge(result),
        precision="" if artefact is None else artefact.precision,
        batch=measurement.batch,
        p50_ms=result.latency.p50_ns / 1e6,
        p99_ms=result.latency.p99_ns / 1e6,
        images_per_s=result.latency.images_per_s,
        energy_mj=energy_mj(measurement, result),
        accuracy=said.accuracy,
        agreement=said.agreement,
        agrees_with=said.whose,
        against=_against(measurement, result),
        predicted_ms=None
        if result.predicted is None
        else (result.predicted.low_ns / 1e6, result.predicted.high_ns / 1e6),
        conditions=tuple(_conditions(measurement)),
        date=measurement.environment.date,
        invalid="; ".join(one.what for one in measurement.spoiled_by),
        unranked=_unranked(result),
        summary=summary_line(measurement, result) or "",
    )


def _merge(result: ContenderResult) -> str:
    artefact = result.artefact
    if artefact is None:
        return ""
    if artefact.network is not None:
        return artefact.network.merge
    return {True: "merged", False: "none", None: ""}[artefact.merges]


def _against(measurement: Measurement, result: ContenderResult) -> str:
    if result.against is None:
        return "baseline" if len(measurement.contenders) > 1 else ""
    if not measurement.valid:
        return ""
    return f"{result.against.words()} than {result.against.baseline}" if (
        result.against.verdict in ("faster", "slower")
    ) else f"no difference to {result.against.baseline} shown"  # fmt: skip


def _unranked(result: ContenderResult) -> str:
    artefact = result.artefact
    if artefact is None:
        return "a peer"
    if artefact.network is None:
        return "its network is not recorded"
    if artefact.check == "failed":
        return _FAILED
    return _RANDOM if artefact.weights == "random" else ""


def _conditions(measurement: Measurement) -> Iterable[str]:
    if measurement.conditions is not None:
        yield condition_line(measurement.conditions)
    for finding in measurement.findings:
        yield f"{'NOT VALID: ' if finding.severity == 'invalid' else ''}{finding.what}"
    for finding in measurement.energy.findings if measurement.energy else ():
        yield f"{'energy NOT VALID: ' if finding.severity == 'invalid' else ''}{finding.what}"
    for absent in measurement.absent:
        yield f"{absent.name} did not take part: {absent.reason}"
