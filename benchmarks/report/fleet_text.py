"""A fleet's rows as Markdown for a README and as CSV for a spreadsheet."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Sequence

from benchmarks.report.fleet import FleetRow, Group
from benchmarks.report.gathering import Skipped

_HEADS = (
    "device", "engine", "merge", "precision", "p50 ms", "p99 ms", "images/s", "mJ/image", "answers",
    "against", "",
)  # fmt: skip
_FRONT, _NOT_VALID = "**front**", "not valid"


def markdown(groups: Sequence[Group], skipped: Sequence[Skipped] = ()) -> str:
    """Return a table for each network and batch; a column without any figure is left out."""
    parts = []
    for group in groups:
        rows = [markdown_cells(row) for row in group.rows]
        kept = [
            column
            for column, head in enumerate(_HEADS)
            if any(row[column] for row in rows) or head == "engine"
        ]
        lines = [f"### {group.network}, batch {group.batch}", ""]
        lines.append(_line([_HEADS[column] for column in kept]))
        lines.append(_line(["---"] * len(kept)))
        lines += [_line([_escaped(row[column]) for column in kept]) for row in rows]
        if group.ranked_by:
            lines += ["", f"**front**: nothing on that device is better in {group.ranked_by}."]
        parts.append("\n".join(lines))
    if skipped:
        parts.append(f"{len(skipped)} other files were skipped.")
    return "\n\n".join(parts) + "\n"


def markdown_cells(row: FleetRow) -> tuple[str, ...]:
    """Return a row's figures as text; of a measurement that does not count, the latencies alone."""
    times = (f"{row.p50_ms:.2f}", f"{row.p99_ms:.2f}")
    head = (row.place, row.engine, row.merge, row.precision.upper(), *times)
    if row.invalid:
        return (*head, "", "", "", "", _NOT_VALID)
    return (
        *head,
        f"{row.images_per_s:.1f}",
        "" if row.energy_mj is None else f"{row.energy_mj:.1f}",
        answers(row),
        row.against,
        _FRONT if row.on_front else row.unranked,
    )


def answers(row: FleetRow) -> str:
    """Return what is known of a row's answers, in a few words."""
    said = []
    if row.accuracy is not None:
        said.append(f"{row.accuracy:.1%} right")
    if row.agreement is not None and row.agrees_with:
        said.append(f"{row.agreement:.1%} of {row.agrees_with.removesuffix(' answers')}")
    return ", ".join(said).replace("%", " %")


def csv_text(groups: Sequence[Group]) -> str:
    """Return every row with every field; what is not known is empty, a list has ` | ` between."""
    stream = io.StringIO()
    names = [field.name for field in dataclasses.fields(FleetRow)]
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(names)
    for group in groups:
        for row in group.rows:
            writer.writerow([_plain(getattr(row, name)) for name in names])
    return stream.getvalue()


def _plain(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, tuple):
        return " | ".join(_plain(one) for one in value)
    text = str(value)
    # A spreadsheet takes a cell that begins so for a formula, and runs it.
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _escaped(text: str) -> str:
    """Return a cell that no table breaks at, and that is no HTML."""
    for letter, instead in (("\\", "\\\\"), ("|", "\\|"), ("<", "&lt;"), ("\n", " ")):
        text = text.replace(letter, instead)
    return text
