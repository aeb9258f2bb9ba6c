"""What `estimate` says on a terminal: a table for each device, a sentence for each figure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from benchmarks.network import Network
from benchmarks.prediction.constants import Calibration
from benchmarks.prediction.hardware import Hardware
from benchmarks.prediction.roofline import Prediction
from fpet_export.reporter import Reporter

if TYPE_CHECKING:
    from fpet_export.workflow.estimate import Estimate, Estimated

_MEANINGS = (
    "every time is a prediction, not a measurement: a roofline with constants that were fitted to "
    "other devices, unless --measured gives some of this one",
    "bound by: what takes most of the time: computing, reading weights, reading and writing "
    "activations, or launching kernels",
)


def show(found: Estimated, reporter: Reporter) -> None:
    """Show a table for each device and mode, and say what is not predicted."""
    network = found.network
    for (hardware, calibration), members in _grouped(found.estimates):
        reporter.line()
        reporter.paragraph(
            f"Predicted, not measured: {network.name} on {hardware.name}; constants from "
            f"{calibration.source}"
        )
        rows: list[Sequence[str]] = [_HEADS if network.merges else _PLAIN_HEADS]
        rows += [_row(one) for one in members]
        reporter.table(rows)
        for one in members:
            for line in _details(one):
                reporter.detail(line)
    for line in found.left_out:
        reporter.bullet(f"not predicted: {line}")
    reporter.line()
    reporter.explain(_MEANINGS)


_HEADS = ("precision", "batch", "plain ms", "merged ms", "merged/plain", "bound by")
_PLAIN_HEADS = ("precision", "batch", "ms", "bound by")


def _row(one: Estimate) -> Sequence[str]:
    plain = (one.precision, str(one.batch), _range(one.plain))
    if one.merged is None:
        return (*plain, one.plain.bound)
    return (*plain, _range(one.merged), f"about {one.ratio:.2f}", one.merged.bound)


def _grouped(
    estimates: Sequence[Estimate],
) -> list[tuple[tuple[Hardware, Calibration], list[Estimate]]]:
    groups: dict[str, list[Estimate]] = {}
    for one in estimates:
        groups.setdefault(one.hardware.name, []).append(one)
    return [((members[0].hardware, members[0].calibration), members) for members in groups.values()]


def _details(one: Estimate) -> Iterator[str]:
    shown = one.merged or one.plain
    for part in shown.parts:
        yield (
            f"{one.precision}, batch {one.batch}, {part.name}: about {part.total_ms:.3f} ms, "
            f"bound by {part.bound}"
        )


def sentence(network: Network, one: Estimate) -> str:
    """Return one estimate in words."""
    ranges = [f"{_range(one.plain)} ms plain"]
    if one.merged is not None:
        ranges.insert(0, f"{_range(one.merged)} ms merged")
    return (
        f"{network.name}, {one.precision.upper()}, {one.hardware.name}, batch {one.batch}: "
        f"predicted {', '.join(ranges)}"
    )


def _range(prediction: Prediction) -> str:
    low, high = prediction.low_ms, prediction.high_ms
    digits = 2 if high < 10 else 1
    return f"{low:.{digits}f} to {high:.{digits}f}"
