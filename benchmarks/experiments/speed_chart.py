"""The bar chart of the README: latency of merged graphs over that of the plain ViT, on a CPU.

`python -m benchmarks.experiments.speed_chart RESULT -o docs/speed.svg`, where RESULT is
`benchmarks/results/cpu_latency_int8_batch1.json`: all bars are of one measurement. The SVG has a
light and a dark form and takes that of the page.
"""

from __future__ import annotations

import argparse
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engines import registry

_INK, _MUTED, _OURS = "#010101", "#020202", "#030303"
_STYLE = """<style>
:root { --ink: #1f2328; --muted: #8c959f; --ours: #2f6feb; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --muted: #6e7681; --ours: #58a6ff; } }
</style>"""
_NAMES = {
    "ort_plain": "plain, ONNX Runtime",
    "openvino_plain": "plain, OpenVINO",
    "frozen": "merged, ONNX Runtime",
    "frozen_openvino": "merged, OpenVINO",
    "frozen_int8": "merged INT8, ONNX Runtime",
    "frozen_int8_openvino": "merged INT8, OpenVINO",
}
"""What a contender is called on the chart, in the order of its rows."""


def draw(measurement: Mapping[str, Any]) -> str:
    """Return the chart as an SVG file.

    Args:
        measurement: One of a result of `benchmarks.experiments.cpu_latency`, as JSON.
    """
    found = {result["name"]: result for result in measurement["contenders"]}
    rows = [(text, found[name]) for name, text in _NAMES.items() if name in found]
    figures = registry.import_or_explain("matplotlib.figure")
    figure = figures.Figure(figsize=(6.6, 0.34 * len(rows) + 0.45))
    axes = figure.add_axes((0.31, 0.17, 0.52, 0.81))
    figure.patch.set_alpha(0)
    axes.patch.set_alpha(0)
    for index, (text, result) in enumerate(rows):
        ratio, low, high = _ratio(result)
        plain = result["name"].endswith("plain")
        axes.barh(index, ratio, height=0.62, color=_MUTED if plain else _OURS)
        axes.plot([low, high], [index, index], color=_INK, linewidth=1.3)
        label = f"{ratio:.2f} · {result['latency']['p50_ns'] / 1e6:.0f} ms"
        axes.text(max(ratio, high) + 0.02, index, label, va="center", color=_INK, fontsize=9)
        axes.text(-0.02, index, text, ha="right", va="center", color=_INK, fontsize=9)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(0, 1.05)
    axes.set_yticks([])
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
    axes.tick_params(axis="x", colors=_INK, labelsize=8)
    for side in ("top", "right", "bottom"):
        axes.spines[side].set_visible(False)
    axes.spines["left"].set_color(_INK)
    return _svg(figure)


def _ratio(result: Mapping[str, Any]) -> tuple[float, float, float]:
    against = result["against"] or {"ratio": 1.0, "low": 1.0, "high": 1.0}
    return against["ratio"], against["low"], against["high"]


def _svg(figure: Any) -> str:
    matplotlib = registry.import_or_explain("matplotlib")
    stream = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "speed"}):
        figure.savefig(stream, format="svg", metadata={"Date": None}, transparent=True)
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"'DejaVu Sans'[^;\"]*sans-serif", "system-ui, sans-serif", text)
    for colour, variable in ((_INK, "ink"), (_MUTED, "muted"), (_OURS, "ours")):
        text = text.replace(colour, f"var(--{variable})")
    lines = re.sub(r"(<svg[^>]*>)", rf"\1\n{_STYLE}", text, count=1).splitlines()
    return "\n".join(line.rstrip() for line in lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the first measurement of a result of `benchmarks.experiments.cpu_latency`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("result", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    document = json.loads(options.result.read_text("utf-8"))
    options.out.write_text(draw(document["measurements"][0]), "utf-8")


if __name__ == "__main__":
    main()
