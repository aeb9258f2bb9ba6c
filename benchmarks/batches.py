"""The same contenders measured at several batch sizes: their table, JSON and page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import merge_verdict
from benchmarks.measurement import Measurement
from benchmarks.measurement_file import to_document, to_text
from benchmarks.report.page import BatchRow, Report, State, Verdict
from benchmarks.report.speed_words import hardware
from benchmarks.report.table import WIDTH, notes, render_columns, shorten, wrapped
from engines import storage

SCHEMA = 1
_HEADS = ("batch", "", "p50 ms", "baseline", "images/s", "ratio", "95 % int.", "verdict")
_SPARED = ("images/s", "baseline")


def rows_of(measurements: Sequence[Measurement]) -> list[tuple[str, ...]]:
    """Return the cells of the table: for each batch a row for every contender but the baseline."""
    rows = []
    for measurement in measurements:
        baseline = measurement.result(measurement.baseline)
        others = [one for one in measurement.contenders if one.against is not None]
        for result in others or [baseline]:
            times = [f"{one.latency.p50_ns / 1e6:.2f}" for one in (result, baseline)]
            row = [str(measurement.batch), result.name, *times]
            against = result.against
            if not measurement.valid:
                row += ["", "", "", "not valid"]
            elif against is None:
                row += [f"{result.latency.images_per_s:.1f}", "", "", "baseline"]
            else:
                row += [
                    f"{result.latency.images_per_s:.1f}",
                    f"{against.ratio:.3f}",
                    f"{against.low:.3f}–{against.high:.3f}",
                    against.words(),
                ]
            rows.append(tuple(row))
    return rows


def format_batches(measurements: Sequence[Measurement], *, width: int = WIDTH) -> str:
    """Return measurements at several batches as one table, without a line break at the end.

    `baseline` is the baseline's p50 in ms; the other columns are those of one measurement's table.
    """
    first = measurements[0]
    rows = rows_of(measurements)
    names = max(len(row[1]) for row in rows)
    rows = [(row[0], shorten(row[1], min(names, 20)), *row[2:]) for row in rows]
    table, spared = render_columns(_HEADS, rows, words=(1, len(_HEADS) - 1), spared=_SPARED,
                                   width=width)  # fmt: skip
    title = (
        f"{len(measurements)} batch sizes, {first.rounds} or more paired rounds each, baseline "
        f"{first.baseline}, on {hardware(first)}"
    )
    said = list(dict.fromkeys(
        f"batch {one.batch}: {note}" for one in measurements for note in notes(one)
    ))  # fmt: skip
    if spared:
        said.append(f"left out at this width: {', '.join(spared)}")
    below = ["", *wrapped(said, width)] if said else []
    return "\n".join([*wrapped([title], width), "", *table, *below])


def summary(measurements: Sequence[Measurement]) -> str:
    """Return what was compared at each batch, a line each."""
    rows = (row for row in rows_of(measurements) if row[5])
    lines = [f"batch {row[0]}: {row[1]}: {row[7]}, {row[5]} [{row[6]}]" for row in rows]
    return "\n".join(lines) or "speed not known"


def batches_document(measurements: Sequence[Measurement]) -> dict[str, Any]:
    """Return measurements at several batches as what `json.dumps` takes, with what they show."""
    return {
        "kind": "batches",
        "schema": SCHEMA,
        "valid": all(one.valid for one in measurements),
        "merging": merge_verdict.to_json(merge_verdict.merge_verdicts(measurements)),
        "measurements": [to_document(one) for one in measurements],
    }


def write_batches(path: Path, measurements: Sequence[Measurement], *, force: bool = False) -> None:
    """Write measurements at several batches atomically.

    Raises:
        UsageError: The file exists and `force` is not given.
        InputError: The folder cannot be written.
    """
    storage.refuse_overwrite(path, force=force)
    storage.write_text(path, to_text(batches_document(measurements)))


def report_of_batches(measurements: Sequence[Measurement], *, title: str, again: str) -> Report:
    """Return the page of measurements at several batches; see `benchmarks.report.page`."""
    verdicts = merge_verdict.merge_verdicts(measurements)
    pays = [one.pays for one in verdicts]
    state: State = "open" if None in pays or not pays else "good" if all(pays) else "bad"
    said = [one.sentence() for one in verdicts] or ["Every batch was measured"]
    valid = all(one.valid for one in measurements)
    return Report(
        title=title,
        verdict=Verdict(
            sentence=". ".join(said) + ".", state=state, command="" if valid else again
        ),
        batches=tuple(BatchRow(*row) for row in rows_of(measurements)),
        measurements=tuple(measurements),
        measure_again=again,
    )
