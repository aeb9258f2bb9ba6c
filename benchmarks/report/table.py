"""A measurement as plain text, as wide as the terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from benchmarks.conditions.in_words import condition_line
from benchmarks.measurement import ContenderResult, Measurement
from benchmarks.report.speed_words import hardware

WIDTH = 80
_HEADS = (
    "",
    "p50 ms",
    "p90",
    "p99",
    "GPU p50",
    "images/s",
    "peak",
    "ratio",
    "95 % int.",
    "verdict",
)
_LEFT = (0, len(_HEADS) - 1)  # columns of words; the others are numbers
_SPARED = ("p90", "images/s", "peak", "GPU p50")
"""What a narrow terminal does not show, in this order; JSON and the page have it."""
_NAME = 20  # columns that a name keeps before others are left out
_GAP = "  "


def format_table(measurement: Measurement, *, width: int = WIDTH) -> str:
    """Return the measurement as lines of text, without a line break at the end.

    Of one that is not valid only the latencies are shown, to see the noise: no ratio, no rate.
    Where the lines would be longer than `width`, columns are left out, and that is said.

    Ratios are latency over the baseline's latency, so below 1 is faster; `GPU p50` is
    the GPU's own time in ms, without the launch and the wait; `peak` is the share of
    the machine's measured GEMM rate.
    """
    rows = [_row(result, valid=measurement.valid) for result in measurement.contenders]
    lines, spared = render_columns(_HEADS, rows, words=_LEFT, spared=_SPARED, width=width)
    said = notes(measurement)
    if spared:
        said.append(f"left out at this width: {', '.join(spared)}")
    below = ["", *wrapped(said, width)] if said else []
    return "\n".join([_title(measurement, width), "", *lines, *below])


def render_columns(
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    words: Sequence[int],
    spared: Sequence[str],
    width: int,
) -> tuple[list[str], list[str]]:
    """Return a table's lines, and the names of the columns that did not fit.

    A column without any figure is left out, and that is not said.

    Args:
        heads: A name a column.
        rows: A cell a column; the first one may be shortened where nothing else helps.
        words: Columns that are set to the left.
        spared: Names of columns that may be left out, in this order.
        width: Width of the terminal.
    """
    kept = [
        column for column in range(len(heads)) if column == 0 or any(row[column] for row in rows)
    ]
    widths = {column: max(len(row[column]) for row in (heads, *rows)) for column in kept}
    gone = []
    for name in spared:
        figures = sum(widths[column] + len(_GAP) for column in widths if column)
        if min(widths[0], _NAME) + figures <= width:
            break
        if (column := heads.index(name)) in widths:
            gone.append(name)
            del widths[column]
    kept = list(widths)
    others = sum(widths[column] + len(_GAP) for column in kept[1:])
    widths[0] = min(widths[0], max(width - others, 8))
    lines = []
    for row in (heads, *rows):
        cells = (shorten(row[0], widths[0]), *row[1:])
        padded = [
            cells[column].ljust(widths[column])
            if column in words
            else cells[column].rjust(widths[column])
            for column in kept
        ]
        lines.append(_GAP.join(padded).rstrip())
    return lines, gone


def _title(measurement: Measurement, width: int) -> str:
    seconds = measurement.duration_ns / 1e9
    return "\n".join(
        textwrap.wrap(
            f"batch {measurement.batch}, {measurement.rounds} paired rounds in {seconds:.1f} s, "
            f"baseline {measurement.baseline}, on {hardware(measurement)}",
            width,
        )
    )


def _row(result: ContenderResult, *, valid: bool) -> tuple[str, ...]:
    latency = result.latency
    times = tuple(f"{ns / 1e6:.2f}" for ns in (latency.p50_ns, latency.p90_ns, latency.p99_ns))
    if not valid:
        return (result.name, *times, "", "", "", "", "", "not valid")
    numbers = (
        *times,
        f"{result.device_p50_ns / 1e6:.3f}" if result.device_p50_ns is not None else "",
        f"{latency.images_per_s:.1f}",
        f"{result.peak_share:.0%}" if result.peak_share is not None else "",
    )
    against = result.against
    if against is None:
        return (result.name, *numbers, "1", "", "baseline")
    return (
        result.name,
        *numbers,
        f"{against.ratio:.3f}",
        f"{against.low:.3f}–{against.high:.3f}",
        against.words(),
    )


def notes(measurement: Measurement) -> list[str]:
    """Return what a reader must know beside the figures, a sentence each."""
    said = [f"{entry.name}: {entry.reason} ({entry.fix})" for entry in measurement.absent]
    if measurement.conditions is not None:
        said.append(condition_line(measurement.conditions))
    for finding in measurement.findings:
        mark = "NOT VALID" if finding.severity == "invalid" else "doubtful"
        said.append(f"{mark}: {finding.what}; {finding.fix}")
    said += predictions(measurement)
    random = [
        result.name
        for result in measurement.contenders
        if result.artefact is not None and result.artefact.weights == "random"
    ]
    if random:
        said.append(f"random weights, good for speed only: {', '.join(random)}")
    return said


def predictions(measurement: Measurement) -> list[str]:
    """Return what was predicted of each contender beside what was measured, a sentence each."""
    said = []
    for result in measurement.contenders:
        if result.predicted is not None:
            beside = f", measured {result.latency.p50_ns / 1e6:.2f}" if measurement.valid else ""
            low, high = result.predicted.low_ns / 1e6, result.predicted.high_ns / 1e6
            said.append(f"{result.name}: predicted {low:.2f} to {high:.2f} ms{beside}")
    return said


def wrapped(notes: Sequence[str], width: int) -> list[str]:
    """Return each note in lines of at most `width`, further lines indented."""
    return [
        line
        for note in notes
        for line in textwrap.wrap(note, width, subsequent_indent="  ", break_on_hyphens=False)
    ]


def shorten(name: str, width: int) -> str:
    """Return `name` with its middle replaced when it is longer than `width`."""
    if len(name) <= width:
        return name
    head = (width - 1) // 2
    return f"{name[:head]}…{name[head + 1 - width :]}"
