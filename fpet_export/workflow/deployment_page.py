"""The HTML page of a deployment, from what its steps found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.report.page import (
    RANDOM_WEIGHTS,
    EngineRow,
    Picture,
    Report,
    Statement,
    StepLine,
    Tile,
    Verdict,
    write_report,
)
from benchmarks.report.speed_words import measured_on
from engines.imaging.class_names import is_sure
from engines.manifest import read_manifest
from engines.parity.rows import ParityTable, StageParity
from fpet_export.reporter import FinishedStep
from fpet_export.steps import runs
from fpet_export.workflow import deployment_verdict, headline, written

if TYPE_CHECKING:
    from benchmarks.measurement import Measurement
    from benchmarks.report.page import State
    from fpet_export.steps.exporting import Started
    from fpet_export.workflow.deployed import DeployedTarget


def write(
    path: Path,
    *,
    started: Started,
    table: ParityTable,
    built: Sequence[DeployedTarget],
    sentence: str,
    verdict: deployment_verdict.Verdict,
    steps: Sequence[FinishedStep],
    measurements: Sequence[Measurement],
    again: str,
    pictures: Sequence[Picture],
    commands: Sequence[str],
    force: bool,
) -> None:
    """Write the page; see `benchmarks.report.page.Report` for its parts.

    Args:
        path: Path of the page, in the folder of the deployment.
        started: The run.
        table: Parity of all stages.
        built: Every target's engine.
        sentence: The whole result.
        verdict: The same with its figures, as the terminal says it.
        steps: As the terminal showed them.
        measurements: Against the plain ViT.
        again: The command that measures once more.
        pictures: Pictures of the merge.
        commands: To type next.
        force: Whether a page that exists is replaced.
    """
    unsure = f"Accuracy is {table.labels}: nothing says which class is which; it may be wrong."
    is_measured = any(one.valid for one in measurements)
    write_report(
        path,
        Report(
            title=f"{started.adapted.checkpoint.name}, exported for "
            f"{' and '.join(one.target for one in built)}",
            subtitle=runs.describe(started.adapted),
            verdict=_shown(
                verdict,
                sentence,
                "" if is_measured or table.first_failure() else again,
            ),
            warnings=tuple(
                text
                for text, holds in (
                    (RANDOM_WEIGHTS, started.adapted.quality == "random"),
                    (unsure, not is_sure(table.labels)),
                )
                if holds
            ),
            tiles=_tiles(table, built, measurements),
            engines=tuple(_engine(one, table, measurements) for one in built),
            parity=(table,),
            measurements=tuple(measurements),
            measure_again=again,
            pictures=tuple(pictures),
            steps=shown_steps(steps),
            files=written.files(path.parent, built),
            next_commands=tuple(commands),
        ),
        force=force,
    )


def shown_steps(steps: Sequence[FinishedStep]) -> tuple[StepLine, ...]:
    """Return the terminal's steps as the page shows them."""
    states = {True: "done", False: "failed", None: "warning"}
    return tuple(
        StepLine(
            name=step.name,
            state=states[step.passed],  # type: ignore[arg-type]  # a dict of literals
            detail=step.text,
            duration_s=step.seconds,
        )
        for step in steps
    )


def _shown(verdict: deployment_verdict.Verdict, sentence: str, command: str) -> Verdict:

    statements = tuple(
        Statement(about=about, text=one.text, state=_state(one.good))
        for about, one in verdict.lines()
    )
    worst: State = "good" if all(one.state == "good" for one in statements) else "open"
    if verdict.answers.good is False:
        worst = "bad"
    return Verdict(sentence=sentence, state=worst, command=command, statements=statements)


def _state(good: bool | None) -> State:
    return "open" if good is None else "good" if good else "bad"


def _tiles(
    table: ParityTable, built: Sequence[DeployedTarget], measurements: Sequence[Measurement]
) -> tuple[Tile, ...]:
    """Return the numbers of the first engine that ran; of the last graph where none did."""
    ran = [one for one in built if one.row is not None]
    row = ran[0].row if ran else table.rows[-1]
    assert row is not None
    tiles = [
        _likeness_tile(row),
        Tile(
            value=f"{row.largest_logit_difference:.1e}",
            label=f"{row.difference.rpartition(' ')[0]} ({row.stage})",
            state=_state(row.passed),
        ),
    ]
    if row.accuracy is not None:
        tiles.append(_accuracy_tile(row, table))
    return (*tiles, *_speed_tiles(measurements))


def _likeness_tile(row: StageParity) -> Tile:

    if row.cosine is not None:
        label = f"smallest cosine of an output and the reference's ({row.stage})"
        return Tile(value=f"{row.cosine:.6f}", label=label, state=_state(row.passed))
    return Tile(
        value=f"{row.same_images}/{row.images}",
        label=f"images keep their class (agreement, {row.stage})",
        state="bad" if not row.passed else "good" if row.agreement == 1 else "open",
    )


def _accuracy_tile(row: StageParity, table: ParityTable) -> Tile:

    first = table.rows[0].accuracy
    label = f"accuracy ({row.stage})" + (
        "" if first is None else f", {first:.1%} before the export"
    )
    if is_sure(table.labels):
        return Tile(value=f"{row.accuracy:.1%}", label=label)
    return Tile(value=f"{row.accuracy:.1%}?", label=f"{label}, {table.labels}", state="open")


def _speed_tiles(measurements: Sequence[Measurement]) -> list[Tile]:
    """Return a tile a comparison: no factor that was not shown to be one."""
    found = []
    for measurement, result, against in headline.compared(measurements)[:2]:
        rival = headline.rival(against)
        if not measurement.valid:
            label = "speed not known: the measurement is not valid"
            found.append(Tile(value="–", label=label, state="open"))
        elif against.verdict in ("faster", "slower"):
            factor = f"{max(against.ratio, against.speedup):.2f}×"
            label = f"{against.verdict} than {rival} ({result.name})"
            state: State = "good" if against.verdict == "faster" else "bad"
            found.append(Tile(value=factor, label=label, state=state))
        else:
            label = f"no difference in speed shown to {rival} ({result.name})"
            found.append(Tile(value="–", label=label, state="open"))
    return found[:1] if any(not one.valid for one in measurements) else found


def _engine(
    one: DeployedTarget, table: ParityTable, measurements: Sequence[Measurement]
) -> EngineRow:

    manifest = read_manifest(one.engine, verify=False)
    runtime = manifest.runtime
    about = [f"for {one.target}", manifest.precision, f"{manifest.total_bytes / 1e6:.1f} MB"]
    about += [f"{runtime.flavour} {runtime.version}"] if runtime is not None else []
    row, state = one.row, _state(None)
    if row is None:
        answers = f"not run here: {one.not_run}" if one.not_run else "not run here"
        answers += f". Its graph: {_agreement(one.rows[-1])}" if one.rows else ""
    else:
        answers, state = f"ran, {_agreement(row)}", _state(row.passed)
    accuracy = row.accuracy if row is not None else None
    return EngineRow(
        name=one.engine.name,
        about=" · ".join(about),
        answers=answers,
        state=state,
        accuracy=""
        if accuracy is None
        else f"{accuracy:.1%}{'' if is_sure(table.labels) else '?'}",
        speed=_speed(one, measurements),
    )


def _agreement(row: StageParity) -> str:
    if not row.passed:
        return f"not equal ({'; '.join(row.failures)})"
    warned = "".join(f". {warning}" for warning in row.warnings)
    return f"{row.likeness}{warned}"


def _speed(one: DeployedTarget, measurements: Sequence[Measurement]) -> str:

    for measurement, result, against in headline.compared(measurements):
        if result.name != one.engine.stem:
            continue
        if not measurement.valid:
            return "not known: the measurement is not valid"
        where = measured_on(measurement, result)
        return f"{against.words()} ({where})"
    return ""
