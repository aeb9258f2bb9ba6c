"""A measurement in one line for a README, and as a badge: only what is known."""

from __future__ import annotations

import dataclasses
import html
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.place import place_of
from engines import storage

if TYPE_CHECKING:
    from benchmarks.measurement import ContenderResult, Measurement

_FEWEST_IMAGES = 100
"""A share of fewer images says little, and one of synthetic images nothing about real ones."""
_REFERENCES = (("adapted model", "the checkpoint's answers"), ("artefact ", "its graph's answers"))
_LETTER, _MARGIN, _HEIGHT = 6.6, 8, 20
"""Of a badge, in pixels: a letter at 11 pixels, the space beside a text, and the height."""


def summary_line(measurement: Measurement, result: ContenderResult) -> str | None:
    """Return one contender's result in one line; None where the measurement is not valid.

    As in "ViT-B/16 merged, FP16, Orin Nano 8 GB MAXN_SUPER, JetPack 6.2: 3.9 ms, 31 mJ, 99.8 % of
    the checkpoint's answers".
    """
    if not measurement.valid:
        return None
    return f"{_subject(measurement, result)}: {', '.join(figures(measurement, result))}"


def summary_lines(measurement: Measurement) -> list[str]:
    """Return the line of each contender that is not only there to be compared with."""
    others = [one for one in measurement.contenders if one.name != measurement.plain]
    lines = (summary_line(measurement, one) for one in others)
    return [line for line in lines if line is not None]


def figures(measurement: Measurement, result: ContenderResult) -> list[str]:
    """Return latency, energy and answers of a contender, as far as they are known."""
    found = [f"{_rounded(result.latency.p50_ns / 1e6)} ms"]
    if measurement.batch > 1:
        found[0] += f" a batch of {measurement.batch}"
    energy = energy_mj(measurement, result)
    if energy is not None:
        found.append(f"{_rounded(energy)} mJ{' an image' if measurement.batch > 1 else ''}")
    answers = answers_of(result)
    if answers.accuracy is not None:
        found.append(f"{answers.accuracy:.1%} right".replace("%", " %"))
    if answers.agreement is not None:
        found.append(f"{answers.agreement:.1%} of {answers.whose}".replace("%", " %"))
    if result.artefact is not None and result.artefact.weights == "random":
        found.append("random weights")
    return found


def energy_mj(measurement: Measurement, result: ContenderResult) -> float | None:
    """Return the millijoules of an image; None where they are not known or do not count."""
    record = measurement.energy
    if result.energy is None or result.energy.gross is None or record is None:
        return None
    if not measurement.valid or any(one.severity == "invalid" for one in record.findings):
        return None
    return result.energy.gross.value


@dataclasses.dataclass(frozen=True, kw_only=True)
class KnownAnswers:
    """What is known of a contender's answers on real images; None is what is not.

    Attributes:
        accuracy: Share of right labels, where it was said which class a label means.
        agreement: Share of images with the class of a reference.
        whose: Whose classes those are, in words; "" without `agreement`.
    """

    accuracy: float | None = None
    agreement: float | None = None
    whose: str = ""


def answers_of(result: ContenderResult) -> KnownAnswers:
    """Return what is known of a contender's answers: on the user's images, else by its own check.

    A check on few images, or on synthetic ones, says too little to be repeated.
    """
    scored = result.accuracy
    if scored is not None:
        return KnownAnswers(
            accuracy=scored.top1 if scored.sure else None,
            agreement=scored.agreement,
            whose=f"the answers of {scored.reference}" if scored.agreement is not None else "",
        )
    answers = None if result.artefact is None else result.artefact.answers
    if answers is None or answers.images < _FEWEST_IMAGES or "synthetic" in answers.on:
        return KnownAnswers()
    whose = next((words for start, words in _REFERENCES if answers.of.startswith(start)), "")
    return KnownAnswers(
        accuracy=answers.accuracy if answers.sure else None,
        agreement=answers.agreement if whose else None,
        whose=whose,
    )


def badge(measurement: Measurement, result: ContenderResult) -> str:
    """Return a badge as SVG: the network and the device on the left, the figures on the right."""
    place = place_of(measurement, result)
    left = f"{_network(result)} on {place.name.removeprefix('Jetson ')}"
    is_valid = measurement.valid
    right = " · ".join(figures(measurement, result)) if is_valid else "not valid"
    widths = [round(len(text) * _LETTER) + 2 * _MARGIN for text in (left, right)]
    total, colour = sum(widths), "#15743a" if is_valid else "#8a5600"
    titles = html.escape(f"{left}: {right}")
    texts = "".join(
        f'<text x="{start + width / 2:g}" y="14" textLength="{width - 2 * _MARGIN}">'
        f"{html.escape(text)}</text>"
        for text, start, width in ((left, 0, widths[0]), (right, widths[0], widths[1]))
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{total}" height="{_HEIGHT}" role="img" '
        f'aria-label="{titles}"><title>{titles}</title>'
        f'<clipPath id="r"><rect width="{total}" height="{_HEIGHT}" rx="3"/></clipPath>'
        f'<g clip-path="url(#r)"><rect width="{total}" height="{_HEIGHT}" fill="#3b4552"/>'
        f'<rect x="{widths[0]}" width="{widths[1]}" height="{_HEIGHT}" fill="{colour}"/></g>'
        '<g fill="#fff" text-anchor="middle" font-family="Verdana,DejaVu Sans,sans-serif" '
        f'font-size="11">{texts}</g></svg>\n'
    )


def write_badge(path: Path, measurement: Measurement, *, force: bool = False) -> None:
    """Write the badge of the first contender that is not only there to be compared with.

    Raises:
        UsageError: The file exists and `force` is not given.
        InputError: The folder cannot be written.
    """
    storage.refuse_overwrite(path, force=force)
    results = measurement.contenders
    shown = next((one for one in results if one.name != measurement.plain), results[0])
    storage.write_text(path, badge(measurement, shown))


def _subject(measurement: Measurement, result: ContenderResult) -> str:
    place = place_of(measurement, result)
    artefact = result.artefact
    parts = [_network(result)]
    if artefact is not None:
        parts.append(artefact.precision.upper())
    parts += [place.name.removeprefix("Jetson "), place.software]
    return ", ".join(part for part in parts if part)


def _network(result: ContenderResult) -> str:
    artefact = result.artefact
    if artefact is None:
        return result.name
    if artefact.network is None:
        merges = {True: " merged", False: " plain", None: ""}[artefact.merges]
        return f"{result.name}{merges}"
    return f"{artefact.network.name} {'merged' if artefact.network.merges else 'plain'}"


def _rounded(value: float) -> str:
    """Return 3.9 for 3.91, 31 for 31.2, 0.64 for 0.643."""
    return f"{value:.2f}" if value < 1 else f"{value:.1f}" if value < 10 else f"{value:.0f}"
