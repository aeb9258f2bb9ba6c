"""The HTML page of a deployment, from what its steps found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from engines.parity import ParityTable, StageParity
from fpet_export.console import StepRecord
from fpet_export.verbs import _steps

if TYPE_CHECKING:
    from benchmarks import Measurement
    from benchmarks.paired_statistics import Comparison
    from benchmarks.report import Headline, ParityRow


def write(
    path: Path,
    *,
    started: _steps.Started,
    table: ParityTable,
    steps: Sequence[StepRecord],
    measurements: Sequence[Measurement],
    picture: bytes | None,
    commands: Sequence[str],
    force: bool,
) -> None:
    """Write the page; see `benchmarks.report.Report` for its parts."""
    from benchmarks.report import Picture, Report, Step, write_report

    adapted = started.adapted
    warnings = []
    if adapted.quality == "random":
        warnings.append("The weights are random: classes mean nothing, only speed does.")
    failure = table.first_failure()
    if failure is not None:
        warnings.append(f"Parity failed at {failure.stage}: {'; '.join(failure.failures)}.")
    warnings += [finding.what for one in measurements for finding in one.findings]
    states = {True: "done", False: "failed", None: "warning"}
    pictures: tuple[Picture, ...] = ()
    if picture is not None:
        pictures = (
            Picture(
                png=picture,
                caption="Which patches merged into which, read from the exported graph.",
                alternative="The image, and beside it its patches: those that became one token "
                "share a colour and an outline.",
            ),
        )
    write_report(
        path,
        Report(
            title=f"{adapted.checkpoint.name}: fine-tuned run to engine",
            subtitle=_steps.describe(adapted),
            warnings=tuple(warnings),
            headlines=tuple(_headlines(table, measurements)),
            steps=tuple(
                Step(
                    name=step.name,
                    state=states[step.passed],  # type: ignore[arg-type]  # a dict of literals
                    detail=step.text,
                    duration_s=step.seconds,
                )
                for step in steps
            ),
            parity=tuple(_row(row) for row in table.rows),
            parity_note=f"On {table.images}, against the {table.reference}.",
            measurements=tuple(measurements),
            pictures=pictures,
            next_commands=tuple(commands),
        ),
        force=force,
    )


def _headlines(table: ParityTable, measurements: Sequence[Measurement]) -> list[Headline]:
    from benchmarks.report import Headline

    last = table.rows[-1]
    found = [
        Headline(
            value=f"{last.relative:.1e}",
            label=f"largest relative logit difference ({last.stage})",
            good=last.passed,
        )
    ]
    if last.accuracy is not None:
        found.append(Headline(value=f"{last.accuracy:.1%}", label=f"accuracy ({last.stage})"))
    if last.tokens_kept is not None or table.rows[-2].tokens_kept is not None:
        row = last if last.tokens_kept is not None else table.rows[-2]
        whole = row.tokens_kept == row.tokens_expected
        found.append(
            Headline(
                value=f"{row.tokens_kept}/{row.tokens_expected}",
                label="tokens accounted for on every image",
                good=whole,
            )
        )
    found += [
        speed_headline(result.against, valid=one.valid)
        for one in measurements
        for result in one.contenders
        if result.against is not None and result.artefact is not None
    ]
    return found[:4]


def speed_headline(comparison: Comparison, *, valid: bool) -> Headline:
    """Return what the page says first about speed: no factor that was not shown to be one."""
    from benchmarks.report import Headline

    if not valid:
        return Headline(value="–", label="no speed: the measurement does not count", good=False)
    if comparison.verdict == "no difference shown":
        return Headline(value="–", label="no difference shown to the plain ViT", good=False)
    return Headline(
        value=f"{max(comparison.ratio, comparison.speedup):.2f}×",
        label=f"{comparison.verdict} than the plain ViT",
        good=comparison.verdict == "faster",
    )


def _row(row: StageParity) -> ParityRow:
    from benchmarks.report import ParityRow

    audit = None if row.tokens_kept is None else f"{row.tokens_kept}/{row.tokens_expected}"
    return ParityRow(
        stage=row.stage,
        passed=row.passed,
        largest_logit_difference=row.largest_logit_difference,
        relative=row.relative,
        sqnr_db=row.sqnr_db,
        agreement=row.agreement,
        same_partner=row.same_partner,
        unexplained_flips=row.unexplained_flips,
        audit=audit,
        accuracy=row.accuracy,
    )
