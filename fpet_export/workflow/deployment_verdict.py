"""What a deployment showed, in three sentences: its answers, its accuracy, its speed.

The terminal and the page say the same ones.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.merge_verdict import merge_verdicts
from benchmarks.report.speed_words import measured_on
from engines.imaging.class_names import is_sure
from fpet_export.reporter import Reporter
from fpet_export.steps import measuring

if TYPE_CHECKING:
    from benchmarks.measurement import Measurement
    from engines.parity.rows import ParityTable, StageParity


@dataclasses.dataclass(frozen=True, kw_only=True)
class Statement:
    """One sentence.

    Attributes:
        text: It.
        good: Whether it is good news; None where something stays unknown.
        measure: The command that would tell what it leaves open; empty where it leaves nothing.
    """

    text: str
    good: bool | None
    measure: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
    """What was shown.

    Attributes:
        answers: Whether every stage says what the fine-tuned model says.
        accuracy: Accuracy of the last stage that ran, beside the checkpoint's own.
        speed: Speed of each engine that was measured against the plain ViT.
        merging: For each, whether merging pays on its device at its batch.
    """

    answers: Statement
    accuracy: Statement
    speed: tuple[Statement, ...]
    merging: tuple[Statement, ...] = ()

    def lines(self) -> list[tuple[str, Statement]]:
        """Return each sentence with what it is about."""
        said = [("answers", self.answers), ("accuracy", self.accuracy)]
        said += [("speed", statement) for statement in self.speed]
        return said + [("merging", statement) for statement in self.merging]

    def show(self, reporter: Reporter) -> None:
        """Print the sentences as the last lines of a deployment."""
        reporter.line()
        for about, statement in self.lines():
            reporter.step(about, statement.text, passed=statement.good)
            if statement.measure:  # in one line, to be pasted
                again = "from which batch it pays" if about == "merging" else "measure again"
                reporter.line(f"   {again}: {statement.measure}")

    def to_json(self) -> dict[str, object]:
        """Return the sentences as what `json.dumps` takes."""
        return dataclasses.asdict(self)


def of_deployment(
    table: ParityTable,
    measurements: Sequence[Measurement],
    *,
    not_run: Mapping[str, str],
    again: str,
    unmeasured: str = "",
    hint: str = "",
) -> Verdict:
    """Judge a deployment.

    Args:
        table: Table of all stages.
        measurements: Measurements of its engines against the plain ViT.
        not_run: Target to the reason why its engine does not run on this machine.
        again: The command that measures its engines once more.
        unmeasured: Why there is no measurement.
        hint: How to find the batch from which merging pays, where it does not.
    """
    return Verdict(
        answers=_answers(table, not_run),
        accuracy=_accuracy(table),
        speed=_speed(measurements, again=again, unmeasured=unmeasured),
        merging=_merging(measurements, hint=hint),
    )


def _answers(table: ParityTable, not_run: Mapping[str, str]) -> Statement:
    failure = table.first_failure()
    if failure is not None:
        text = f"not equal: {failure.stage} drifts, {'; '.join(failure.failures)}"
        return Statement(text=text, good=False)
    last = _last(table)
    text = f"equal within the gates: {last.stage} gives the {last.likeness}, {last.difference}"
    left = "".join(f"; the {target} engine was not run: {why}" for target, why in not_run.items())
    return Statement(text=text + left, good=None if not_run else True)


def _accuracy(table: ParityTable) -> Statement:
    last = _last(table)
    if last.agreement is None:
        return Statement(text="not known: what is exported names no classes", good=None)
    if last.accuracy is None:
        return Statement(text="not known: the images have no labels", good=None)
    first = table.rows[0]
    text = f"{last.accuracy:.1%} on {last.images} labelled images ({last.stage})"
    if first is not last and first.accuracy is not None:
        text += f", {first.accuracy:.1%} before the export ({first.stage})"
    if not is_sure(table.labels):
        return Statement(text=f"{text}, {table.labels}: it may be wrong", good=None)
    return Statement(text=text, good=True)


def _speed(
    measurements: Sequence[Measurement], *, again: str, unmeasured: str
) -> tuple[Statement, ...]:

    if not measurements:
        return (Statement(text=f"not known: {unmeasured or 'not measured'}", good=None),)
    said: list[Statement] = []
    for measurement in measurements:
        if not measurement.valid:
            why = measuring.reasons(measurement.spoiled_by)
            said.append(Statement(text=f"not known: {why}", good=None, measure=again))
            continue
        for result in measurement.contenders:
            against = result.against
            if against is None or result.artefact is None:
                continue
            good = {"faster": True, "slower": False}.get(against.verdict)
            where = f"batch {measurement.batch}, on {measured_on(measurement, result)}"
            said.append(Statement(text=f"{result.name}: {against.sentence()} ({where})", good=good))
    return tuple(said)


def _merging(measurements: Sequence[Measurement], *, hint: str) -> tuple[Statement, ...]:

    return tuple(
        Statement(text=one.sentence(), good=one.pays, measure="" if one.pays else hint)
        for measurement in measurements
        if measurement.valid  # else nothing is known, and that was said of the speed
        for one in merge_verdicts([measurement])
    )


def _last(table: ParityTable) -> StageParity:
    """Return the last engine that ran, or the last stage where none did."""
    engines = [row for row in table.rows if row.stage.endswith("engine")]
    return engines[-1] if engines else table.rows[-1]


def bench_command(artefacts: Sequence[Path], words: str = "") -> str:
    """Return the command that measures artefacts against the plain ViT."""
    import shlex

    return " ".join(
        ["fpet-export bench", shlex.join(map(str, artefacts)), "--against plain", words]
    ).rstrip()
