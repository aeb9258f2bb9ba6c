"""The page of a fleet: every engine on every device, one table a network and batch."""

from __future__ import annotations

import dataclasses
import html
import math
from collections.abc import Sequence
from typing import Any

from benchmarks.report.fleet import FleetRow, Group
from benchmarks.report.fleet_text import answers
from benchmarks.report.gathering import Skipped
from benchmarks.report.table import shorten
from benchmarks.report.templates import fill
from engines.plurals import counted

_MOST_DRAWN = 24
_MOST_SUMMARIES = 40
_WIDTH, _ROW, _FOOT = 400, 40, 34
"""Of a picture, in its own units; a phone shows it nearly unscaled."""
_LINEAR_SPAN = 12
"""Where the slowest is more times slower than the fastest, the axis is logarithmic."""

_FIGURES = (
    ("p50, ms", "the median of one run: half of the runs took at most so long"),
    ("p99", "99 % of the runs took at most so long"),
    ("images a second", "batch over the median"),
    ("mJ an image", "energy of the whole sensor while the engine worked"),
    ("answers", "what the check of this very artefact found"),
    ("predicted, ms", "a prediction from the peaks of the device, no measurement"),
)


def render_fleet(groups: Sequence[Group], skipped: Sequence[Skipped], *, title: str) -> str:
    """Return the page.

    Raises:
        MissingDependencyError: jinja2 is not installed.
    """
    rows = [row for group in groups for row in group.rows]
    return fill(
        "fleet.html.jinja",
        title=title,
        sentence=sentence(groups, skipped),
        groups=[_group(group) for group in groups],
        summaries=[row.summary for row in rows if row.on_front and row.summary][:_MOST_SUMMARIES],
        conditions=_conditions(rows),
        skipped=skipped,
    )


def sentence(groups: Sequence[Group], skipped: Sequence[Skipped]) -> str:
    """Return what was put together, in one sentence."""
    rows = [row for group in groups for row in group.rows]
    devices = counted(len({row.place for row in rows}), "device")
    files = {row.file for row in rows}
    invalid = {row.file for row in rows if row.invalid}
    said = f"{counted(len(rows), 'result')} on {devices}, from {counted(len(files), 'file')}"
    if invalid:
        said += f"; {len(invalid)} not valid"
    if skipped:
        said += f"; {counted(len(skipped), 'other file')} skipped"
    return f"{said}."


def verdict(row: FleetRow) -> tuple[str, str]:
    """Return what is said of a row first, and what news it is: "good", "open", "bad" or none."""
    if row.invalid:
        return f"not valid: {row.invalid}", "open"
    said = ["front"] if row.on_front else []
    said += [row.against] if row.against not in ("", "baseline") else []
    said += [f"not ranked: {row.unranked}"] if row.on_front is None else []
    return "; ".join(said), "good" if row.on_front else ""


def _group(group: Group) -> dict[str, Any]:
    cells = [_cells(row) for row in group.rows]
    kept = [index for index in range(len(_FIGURES)) if any(one[index] for one in cells)]
    drawn = [row for row in group.rows if row.on_front]
    shown = sorted(drawn, key=lambda row: row.p50_ms)[:_MOST_DRAWN]
    return {
        "of": group,
        "heads": [_FIGURES[index] for index in kept],
        "rows": [
            (row, *verdict(row), [(one[index], _FIGURES[index][0]) for index in kept])
            for row, one in zip(group.rows, cells, strict=True)
        ],
        "picture": dots(shown) if len(shown) > 1 else "",
        "drawn": len(shown),
        "more": len(drawn) - len(shown),
    }


def _cells(row: FleetRow) -> tuple[str, ...]:
    times = (f"{row.p50_ms:.2f}", f"{row.p99_ms:.2f}")
    if row.invalid:
        return (*times, "", "", "", "")
    low_high = row.predicted_ms
    return (
        *times,
        f"{row.images_per_s:.1f}",
        "" if row.energy_mj is None else f"{row.energy_mj:.1f}",
        answers(row),
        "" if low_high is None else f"{low_high[0]:.2f} – {low_high[1]:.2f}",
    )


def _conditions(rows: Sequence[FleetRow]) -> list[tuple[str, list[str]]]:
    by_file: dict[str, dict[str, None]] = {}
    for row in rows:
        if row.conditions:
            by_file.setdefault(row.file, {}).update(dict.fromkeys(row.conditions))
    return [(file, list(lines)) for file, lines in by_file.items()]


def dots(rows: Sequence[FleetRow]) -> str:
    """Draw p50 as dots, p99 as whiskers and predictions as pale bands, one row an engine.

    Args:
        rows: At least one, in the order of the picture.
    """
    axis = _Axis.of(rows)
    height = len(rows) * _ROW + _FOOT
    grid = "".join(_tick(value, axis.x(value), height - _FOOT) for value in axis.ticks())
    drawn = "".join(_dot(row, index * _ROW, axis) for index, row in enumerate(rows))
    note = "dot p50, whisker p99"
    if any(row.predicted_ms for row in rows):
        note += ", pale band predicted"
    scale = "milliseconds, logarithmic" if axis.is_log else "milliseconds"
    return (
        f'<svg role="img" aria-label="Latency of {len(rows)} engines" '
        f'viewBox="0 0 {_WIDTH} {height}" font-size="12" font-family="inherit">{grid}{drawn}'
        f'<text x="0" y="{height - 5}" fill="var(--muted)" font-size="11">{scale}: {note}</text>'
        "</svg>"
    )


@dataclasses.dataclass(frozen=True)
class _Axis:
    """Milliseconds to places: logarithmic where devices are far apart."""

    low: float
    high: float
    is_log: bool

    @classmethod
    def of(cls, rows: Sequence[FleetRow]) -> _Axis:
        ends = [end for row in rows for end in (row.p50_ms, row.p99_ms, *(row.predicted_ms or ()))]
        low, high = min(ends), max(ends)
        if high / low > _LINEAR_SPAN:
            return cls(low / 1.15, high * 1.15, is_log=True)
        return cls(0.0, high * 1.04, is_log=False)

    def x(self, value: float) -> float:
        if self.is_log:
            return _WIDTH * math.log(value / self.low) / math.log(self.high / self.low)
        return _WIDTH * value / self.high

    def ticks(self) -> list[float]:
        if self.is_log:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            known = [10.0**power for power in powers]
        else:
            step = 10.0 ** math.floor(math.log10(self.high))
            step = next(one for one in (step / 5, step / 2, step, 2 * step) if self.high / one <= 8)
            known = [step * count for count in range(9)]
        return [value for value in known if self.low < value < self.high * 0.97]


def _tick(value: float, x: float, bottom: int) -> str:
    return (
        f'<path d="M{x:.1f} 0V{bottom}" stroke="var(--soft)"/>'
        f'<text x="{x:.1f}" y="{bottom + 11}" text-anchor="middle" fill="var(--muted)" '
        f'font-size="10">{value:g}</text>'
    )


def _dot(row: FleetRow, top: int, axis: _Axis) -> str:
    name = html.escape(shorten(f"{row.place}: {row.engine}", 40))
    x, middle = axis.x(row.p50_ms), top + 27
    band = ""
    if row.predicted_ms is not None:
        low, high = (axis.x(end) for end in row.predicted_ms)
        band = (
            f'<rect x="{low:.1f}" y="{top + 20}" width="{high - low:.1f}" height="14" rx="3" '
            'fill="var(--soft)"/>'
        )
    return (
        f'{band}<text x="0" y="{top + 14}" fill="var(--ink)" font-weight="600">{name}</text>'
        f'<text x="{_WIDTH}" y="{top + 14}" text-anchor="end" fill="var(--muted)">'
        f"{row.p50_ms:.2f} ms</text>"
        f'<path d="M{x:.1f} {middle}H{axis.x(row.p99_ms):.1f}m0 -4v8" fill="none" '
        'stroke="var(--ink)"/>'
        f'<circle cx="{x:.1f}" cy="{middle}" r="5" fill="var(--accent)"/>'
    )
