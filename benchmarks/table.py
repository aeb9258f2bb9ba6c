"""A measurement as plain text, at most 100 columns wide."""

from __future__ import annotations

import textwrap

from benchmarks.measurement import ContenderResult, Measurement

WIDTH = 100
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
_GAP = "  "


def format_table(measurement: Measurement) -> str:
    """Return the measurement as lines of text, without a line break at the end.

    Of one that is not valid only the latencies are shown, to see the noise: no ratio, no rate.

    Ratios are latency over the baseline's latency, so below 1 is faster; `GPU p50` is
    the GPU's own time in ms, without the launch and the wait; `peak` is the share of
    the machine's measured GEMM rate.
    """
    rows = [_HEADS, *(_row(result, valid=measurement.valid) for result in measurement.contenders)]
    kept = [
        column
        for column in range(len(_HEADS))
        if column == 0 or any(row[column] for row in rows[1:])
    ]
    widths = {column: max(len(row[column]) for row in rows) for column in kept}
    others = sum(widths[column] + len(_GAP) for column in kept[1:])
    widths[0] = min(widths[0], max(WIDTH - others, 8))
    lines = []
    for row in rows:
        cells = (shorten(row[0], widths[0]), *row[1:])
        padded = [
            cells[column].ljust(widths[column])
            if column in _LEFT
            else cells[column].rjust(widths[column])
            for column in kept
        ]
        lines.append(_GAP.join(padded).rstrip())
    return "\n".join([_title(measurement), "", *lines, *_notes(measurement)])


def _title(measurement: Measurement) -> str:
    seconds = measurement.duration_ns / 1e9
    place = measurement.environment
    return "\n".join(
        textwrap.wrap(
            f"batch {measurement.batch}, {measurement.rounds} paired rounds in {seconds:.1f} s, "
            f"baseline {measurement.baseline}, on {place.cpu}, {place.usable_processors}"
            " processors",
            WIDTH,
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


def _notes(measurement: Measurement) -> list[str]:
    notes = [f"{entry.name}: {entry.reason} ({entry.fix})" for entry in measurement.absent]
    for finding in measurement.findings:
        mark = "NOT VALID" if finding.severity == "invalid" else "doubtful"
        notes.append(f"{mark}: {finding.what}; {finding.fix}")
    random = [
        result.name
        for result in measurement.contenders
        if result.artefact is not None and result.artefact.weights == "random"
    ]
    if random:
        notes.append(f"random weights, good for speed only: {', '.join(random)}")
    lines = [
        line
        for note in notes
        for line in textwrap.wrap(note, WIDTH, subsequent_indent="  ", break_on_hyphens=False)
    ]
    return ["", *lines] if lines else []


def shorten(name: str, width: int) -> str:
    """Return `name` with its middle replaced when it is longer than `width`."""
    if len(name) <= width:
        return name
    head = (width - 1) // 2
    return f"{name[:head]}…{name[head + 1 - width :]}"
