"""The rows of the cross-check: what is measured of one graph, the goal, JSON and Markdown."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.errors import InputError
from engines.fusion.kernels import QUANTIZED
from engines.fusion.report import FusionReport
from engines.manifest import from_json
from engines.parity.comparison import sqnr_db
from engines.parity.model_outputs import ModelOutputs
from engines.precisions import INT8

SCHEMA = 2
OURS = "fpet-export"
DEFAULTS = "defaults"
GAIN_DB = 6.0
"""What our INT8 must be above the other tools' defaults, at the logits."""

_DASH = "–"


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeasuredQuality:
    """How far a graph's answers are from those of the float32 graph.

    Attributes:
        images: How many were compared.
        sqnr_db: Signal to noise of the logits; None where a logit is not finite or all are equal.
        agreement: Share of images with the same class.
        same_partner: Share of tokens sent to the same partner; None without a merge, or
            where the graph no longer shows it.
        accuracy: Share of images whose label is predicted; None without labels.
        drop_pp: Percentage points of accuracy lost; likewise.
    """

    images: int
    sqnr_db: float | None
    agreement: float
    same_partner: float | None = None
    accuracy: float | None = None
    drop_pp: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kernels:
    """What TensorRT-RTX made of a graph.

    Attributes:
        compute_capability: What it was built for.
        total: Kernels.
        attentions: Attentions that became one kernel.
        quantized_attentions: Those of them that multiply INT8 or FP8.
        quantized_gemms: Matrix products that multiply INT8 or FP8.
    """

    compute_capability: str
    total: int
    attentions: int
    quantized_attentions: int
    quantized_gemms: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One graph.

    Attributes:
        tool: "onnxruntime", "modelopt" or `OURS`.
        settings: What the tool was told: `DEFAULTS`, a preset.
        precision: fp16, int8 or fp8.
        file_bytes: Size of the graph with its weights; None where there is none.
        quality: None where it could not be run.
        kernels: None where TensorRT-RTX did not build it.
        failures: Why something is None, in words.
    """

    tool: str
    settings: str
    precision: str
    file_bytes: int | None = None
    quality: MeasuredQuality | None = None
    kernels: Kernels | None = None
    failures: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """The cross-check of one network.

    Attributes:
        subject: Its name.
        run: What was exported.
        weights: "random" or "trained".
        calibration: Images that every tool saw, in words.
        images: Images that were measured on.
        accuracy: Accuracy of the float32 graph; None without labels.
        rows: One a graph.
    """

    subject: str
    run: str
    weights: str
    calibration: str
    images: str
    accuracy: float | None
    rows: tuple[Row, ...] = ()


def quality_of(
    actual: ModelOutputs, reference: ModelOutputs, labels: NDArray[np.int64] | None = None
) -> MeasuredQuality:
    """Compare what a graph said with what the float32 graph said about the same images."""
    found, wanted = (each.logits.argmax(axis=1) for each in (actual, reference))
    noise = sqnr_db(actual.logits, reference.logits)
    same_partner = None
    if actual.match is not None and reference.match is not None:
        same_partner = float((actual.match == reference.match).mean())
    accuracy = drop = None
    if labels is not None:
        accuracy = float((found == labels).mean())
        drop = 100 * (float((wanted == labels).mean()) - accuracy)
    return MeasuredQuality(
        images=len(found),
        sqnr_db=noise if math.isfinite(noise) else None,
        agreement=float((found == wanted).mean()),
        same_partner=same_partner,
        accuracy=accuracy,
        drop_pp=drop,
    )


def kernels_of(report: FusionReport, compute_capability: str) -> Kernels:
    """Count the kernels of a fusion report."""
    return Kernels(
        compute_capability=compute_capability,
        total=len(report.kernels),
        attentions=len(report.attentions),
        quantized_attentions=sum(each.dtype in QUANTIZED for each in report.attentions),
        quantized_gemms=report.quantized_gemms,
    )


def gains_db(result: Result) -> dict[str, float]:
    """Return how far our INT8 is above the better one of the other tools' defaults, by preset.

    Empty where there is no such graph of another tool to compare with.
    """
    measured = [
        (row, row.quality.sqnr_db)
        for row in result.rows
        if row.precision == INT8 and row.quality is not None and row.quality.sqnr_db is not None
    ]
    others = [db for row, db in measured if row.tool != OURS and row.settings == DEFAULTS]
    if not others:
        return {}
    return {row.settings: db - max(others) for row, db in measured if row.tool == OURS}


def missed(result: Result) -> list[str]:
    """Return the goals that are missed, in words."""
    gains = gains_db(result)
    if not gains:
        return ["no INT8 of another tool's defaults was measured beside ours"]
    return [
        f"INT8 {preset} is {gain:.1f} dB above the others' defaults, goal {GAIN_DB:g}"
        for preset, gain in gains.items()
        if gain < GAIN_DB
    ]


def to_markdown(results: Sequence[Result]) -> str:
    """Return one table a network, and below it what did not work."""
    return "\n\n".join(_section(result) for result in results)


def _section(result: Result) -> str:
    labelled = result.accuracy is not None
    heads = ["tool", "settings", "precision", "SQNR", "agreement"]
    heads += ["accuracy"] if labelled else []
    heads += ["same partner", "kernels", "attentions fused (quantized)", "quantized GEMMs", "MB"]
    lines = [heads, ["---"] * 3 + ["---:"] * (len(heads) - 3)]
    notes: list[str] = []
    for row in result.rows:
        marks = "".join(f" [{_note(notes, failure)}]" for failure in row.failures)
        lines.append([row.tool, row.settings + marks, row.precision, *_cells(row, labelled)])
    title = f"**{result.subject}** ({result.run}, {result.weights} weights), "
    title += f"calibrated on {result.calibration}; measured on {result.images}"
    if result.accuracy is not None:
        title += f"; float32 accuracy {result.accuracy:.1%}"
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    below = "".join(f"\n\n[{number}] {text}" for number, text in enumerate(notes, start=1))
    return f"{title}\n\n{table}{below}"


def _note(notes: list[str], text: str) -> int:
    """Return the number of a note, which is written once however many rows it is about."""
    if text not in notes:
        notes.append(text)
    return notes.index(text) + 1


def _cells(row: Row, labelled: bool) -> list[str]:
    return [
        *_quality_cells(row.quality, labelled),
        *_kernel_cells(row.kernels),
        _text(row.file_bytes, lambda size: f"{size / 1e6:.0f}"),
    ]


def _quality_cells(quality: MeasuredQuality | None, labelled: bool) -> list[str]:
    if quality is None:
        return [_DASH] * (4 if labelled else 3)
    cells = [_text(quality.sqnr_db, lambda db: f"{db:.1f} dB"), f"{quality.agreement:.1%}"]
    if labelled:
        drop = _text(quality.drop_pp, lambda points: f"{0.0 - points:+.1f} pp")
        cells.append(f"{_text(quality.accuracy, lambda share: f'{share:.1%}')} ({drop})")
    return [*cells, _text(quality.same_partner, lambda share: f"{share:.1%}")]


def _kernel_cells(kernels: Kernels | None) -> list[str]:
    if kernels is None:
        return [_DASH] * 3
    fused = f"{kernels.attentions} ({kernels.quantized_attentions})"
    return [str(kernels.total), fused, str(kernels.quantized_gemms)]


def _text(value: float | None, form: Callable[[float], str]) -> str:
    return _DASH if value is None else form(value)


def to_json(result: Result) -> dict[str, Any]:
    """Return plain JSON values, with the gains for people to read."""
    return dataclasses.asdict(result) | {"gains_db": gains_db(result)}


def read_results(path: Path) -> list[Result]:
    """Read the results of a JSON file that `run` wrote.

    Raises:
        InputError: There is no such file, or it is not a cross-check of this schema.
    """
    try:
        document = json.loads(path.read_text("utf-8"))
        if (document["kind"], document["schema"]) != ("crosscheck", SCHEMA):
            raise ValueError(f"kind {document['kind']!r}, schema {document['schema']!r}")
        fields = {field.name for field in dataclasses.fields(Result)}
        return [
            from_json(Result, {key: value for key, value in result.items() if key in fields})
            for result in document["results"]
        ]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"this is not a cross-check: {error}", where=str(path), fix="run `make crosscheck`"
        ) from error
