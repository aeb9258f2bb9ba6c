"""Latency charts as inline SVG that takes its colours from the page.

Matplotlib draws with marker colours; they become CSS variables, so one drawing serves the light
and the dark page. Text stays text: it can be selected, and it is set in the page's font.
"""

from __future__ import annotations

import io
import re
from typing import Any

from benchmarks.measurement import ContenderResult, Measurement
from benchmarks.report.table import shorten
from engines import registry

_INK, _MUTED, _ACCENT, _SOFT = "#010101", "#020202", "#030303", "#040404"
_BAD, _CARD = "#050505", "#060606"
_VARIABLES = {
    _INK: "var(--ink)",
    _MUTED: "var(--muted)",
    _ACCENT: "var(--accent)",
    _SOFT: "var(--soft)",
    _BAD: "var(--bad)",
    _CARD: "var(--card)",
}
_WIDTH_IN, _ROW_IN, _FOOT_IN = 4.0, 0.54, 0.6  # narrow: a phone shows it unscaled
_POINTS = 9.5


def latency_bars(measurement: Measurement, *, prefix: str) -> str:
    """Draw p50 as bars and p99 as their whiskers, one row a contender; all grey if not valid.

    Args:
        measurement: What to draw.
        prefix: Makes the ids of this drawing unique on its page.
    """
    results = measurement.contenders
    longest = max(result.latency.p99_ns for result in results) / 1e6
    figure, axes = _canvas(results)
    for row, result in enumerate(results):
        p50, p99 = result.latency.p50_ns / 1e6, result.latency.p99_ns / 1e6
        is_ours = result.name != measurement.baseline and measurement.valid
        axes.barh(row, p50, height=0.34, color=_ACCENT if is_ours else _MUTED)
        axes.plot([p50, p99], [row, row], color=_INK, linewidth=1.2)
        axes.plot([p99], [row], marker="|", markersize=8, color=_INK)
        _label(axes, row, result.name, f"{p50:.2f} ms · p99 {p99:.2f}")
    axes.set_xlim(0, longest * 1.03)
    axes.set_xlabel(f"milliseconds per batch of {measurement.batch}: bar p50, whisker p99")
    return _svg(figure, prefix, f"Latency of {len(results)} contenders")


def ratio_intervals(measurement: Measurement, *, prefix: str) -> str:
    """Draw each paired ratio with its interval; the line at 1 is the baseline.

    Args:
        measurement: With at least two contenders.
        prefix: Makes the ids of this drawing unique on its page.
    """
    results = [result for result in measurement.contenders if result.against is not None]
    figure, axes = _canvas(results)
    low, high = 1.0, 1.0
    for row, result in enumerate(results):
        against = result.against
        assert against is not None
        low, high = min(low, against.low), max(high, against.high)
        colour = {"faster": _ACCENT, "slower": _BAD}.get(against.verdict, _MUTED)
        axes.plot([against.low, against.high], [row, row], color=colour, linewidth=5, alpha=0.45,
                  solid_capstyle="round")  # fmt: skip
        axes.plot([against.ratio], [row], marker="o", markersize=7, color=colour)
        _label(axes, row, result.name, f"{against.ratio:.3f} · {against.words()}")
    axes.axvline(1.0, ymax=0.985, color=_INK, linewidth=1, linestyle=(0, (3, 2)))
    room = 0.06 * (high - low) or 0.05
    axes.set_xlim(max(low - room, 0), high + room)
    axes.set_xlabel(f"latency / latency of {measurement.baseline}; left of the line is faster")
    return _svg(figure, prefix, f"Ratios to {measurement.baseline} with 95 % intervals")


def _canvas(results: Any) -> tuple[Any, Any]:
    """Return a figure and axes whose rows are contenders, the first on top."""
    figures = registry.import_or_explain("matplotlib.figure")
    height = _ROW_IN * len(results) + _FOOT_IN
    figure = figures.Figure(figsize=(_WIDTH_IN, height))
    figure.patch.set_alpha(0)
    axes = figure.add_axes((0.015, _FOOT_IN / height, 0.97, 1 - _FOOT_IN / height))
    axes.patch.set_alpha(0)
    axes.set_ylim(len(results) - 0.55, -0.72)
    axes.set_yticks([])
    for side in ("top", "left", "right"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_SOFT)
    axes.tick_params(axis="x", colors=_MUTED, labelsize=_POINTS - 1, length=3)
    axes.xaxis.label.set(color=_MUTED, fontsize=_POINTS - 0.5)
    axes.grid(axis="x", color=_SOFT, linewidth=0.7)
    axes.set_axisbelow(True)
    return figure, axes


def _label(axes: Any, row: int, name: str, words: str) -> None:
    """Write a contender's name and numbers above its row: no margin that a phone cannot spare."""
    alignment = {"transform": axes.get_yaxis_transform(), "va": "bottom", "fontsize": _POINTS}
    alignment["bbox"] = {"facecolor": _CARD, "edgecolor": "none", "pad": 1.2}  # hides grid lines
    axes.text(0.0, row - 0.27, shorten(name, 24), ha="left", color=_INK, weight="bold", **alignment)
    axes.text(1.0, row - 0.27, words, ha="right", color=_MUTED, **alignment)


def _svg(figure: Any, prefix: str, title: str) -> str:
    matplotlib = registry.import_or_explain("matplotlib")
    stream = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": prefix}):
        figure.savefig(stream, format="svg", metadata={"Date": None}, transparent=True)
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # Inside HTML an SVG needs no namespaces, and its size comes from the page.
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text).replace("xlink:href", "href")
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'id="([^"]+)"', rf'id="{prefix}-\1"', text)
    text = re.sub(r"url\(#", f"url(#{prefix}-", text)
    text = re.sub(r'href="#', f'href="#{prefix}-', text)
    text = re.sub(r"'DejaVu Sans'[^;\"]*sans-serif", "inherit", text)
    text = re.sub(r"font: ((?:bold )?[\d.]+px) inherit", r"font: \1 var(--font)", text)
    text = re.sub(r"font: (?:bold|700) ([\d.]+px) ", r"font: 700 \1 ", text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, variable)
    return text.replace("<svg", f'<svg role="img" aria-label="{title}"', 1).strip()


def is_comparable(results: tuple[ContenderResult, ...]) -> bool:
    """Whether there is a ratio to draw."""
    return any(result.against is not None for result in results)
