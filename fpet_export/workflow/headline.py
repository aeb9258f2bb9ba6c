"""What a deployment showed, in one sentence: the first thing that its page says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from benchmarks.report.speed_words import speed_clause
from engines.imaging.class_names import is_sure
from engines.plurals import counted
from fpet_export.steps import plain_vit

if TYPE_CHECKING:
    from benchmarks.measurement import ContenderResult, Measurement
    from benchmarks.paired_statistics import Comparison
    from engines.parity.rows import ParityTable, StageParity
    from fpet_export.workflow.deployed import DeployedTarget


def sentence(
    table: ParityTable, built: Sequence[DeployedTarget], measurements: Sequence[Measurement]
) -> str:
    """Return whether answers are equal, the accuracy, and how fast the first engine that ran is.

    Args:
        table: Table of all stages.
        built: Every target's engine.
        measurements: Against the plain ViT.
    """
    failure = table.first_failure()
    if failure is not None:
        return (
            f"The answers are not equal: {failure.stage} drifts from the reference "
            f"({'; '.join(failure.failures)}). Do not use what was built."
        )
    ran = [one for one in built if one.row is not None]
    who = f"The {ran[0].target} engine" if ran else "The graph"
    row = ran[0].row if ran else table.rows[-1]
    assert row is not None
    model = "its graph" if ran and not ran[0].runs_here else "the fine-tuned model"
    said = [_answers(row, model), *_accuracy(row, table)]
    speed, is_good = _speed(measurements, ran[0].engine.stem if ran else None)
    *first, last = [*said, speed] if is_good else said
    text = f"{who} {', '.join(first)}{' and ' if first else ''}{last}"
    text += "" if is_good else f", but {speed}"
    for one in built:
        text += f"; the {one.target} engine was built, not run" if one.row is None else ""
    return f"{text}."


def rival(comparison: Comparison) -> str:
    """Return what an engine was measured against, in words."""
    if comparison.baseline.partition(".")[0] == plain_vit.PLAIN:
        return "the same ViT without merging"
    return comparison.baseline


def compared(
    measurements: Sequence[Measurement],
) -> list[tuple[Measurement, ContenderResult, Comparison]]:
    """Return every comparison of an engine of ours, with its measurement."""
    return [
        (measurement, result, result.against)
        for measurement in measurements
        for result in measurement.contenders
        if result.against is not None and result.artefact is not None
    ]


def _answers(row: StageParity, model: str) -> str:
    if row.cosine is not None:
        return f"gives the same vectors as {model} up to a cosine of {row.cosine:.6f}"
    images = f"{row.same_images} of {counted(row.images, 'image')}"
    if row.agreement == 1:
        images = f"all {row.images} images" if row.images > 1 else "the one image"
    return f"gives the same class as {model} on {images}"


def _accuracy(row: StageParity, table: ParityTable) -> list[str]:
    before = table.rows[0].accuracy
    if row.accuracy is None or before is None:
        return []
    if not is_sure(table.labels):
        return [f"has an accuracy of {row.accuracy:.1%} which may be wrong (labels {table.labels})"]
    now, then = f"{row.accuracy:.1%}", f"{before:.1%}"
    if not is_sure(table.labels):
        return [f"has an accuracy of {now} {table.labels}, which may be wrong"]
    return [
        f"keeps its accuracy ({now})"
        if now == then
        else f"has an accuracy of {now} ({then} before)"
    ]


def _speed(measurements: Sequence[Measurement], engine: str | None) -> tuple[str, bool]:
    """Return a clause on one engine, and whether it is good news."""
    valid = compared([one for one in measurements if one.valid])
    found = [one for one in valid if one[1].name == engine]
    if not found:
        return "its speed is not known", False
    measurement, result, against = found[0]
    clause = speed_clause(measurement, result, rival=rival(against))
    return clause, against.verdict == "faster"
