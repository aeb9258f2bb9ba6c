"""One self-contained HTML page: what was done, that it is still right, and whether it is faster."""

from __future__ import annotations

import base64
import dataclasses
import importlib.resources
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from benchmarks import charts
from benchmarks.environment import Environment
from benchmarks.measurement import Measurement
from engines import registry, storage

StepState = Literal["done", "warning", "failed", "skipped"]
_MARKS: dict[StepState, str] = {"done": "✓", "warning": "!", "failed": "✗", "skipped": "–"}
_GIB = 1 << 30


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """One stage of the pipeline, as the terminal shows it.

    Attributes:
        name: "inspect", "fold", "freeze".
        state: How it ended.
        detail: One line with its number, such as "24 LoRA pairs, largest logit difference 3.1e-6".
        duration_s: How long it took; None when nobody counted.
    """

    name: str
    state: StepState
    detail: str
    duration_s: float | None = None

    @property
    def mark(self) -> str:
        """A tick, a cross or a sign between."""
        return _MARKS[self.state]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParityRow:
    """One stage against the reference; None where a column does not apply.

    Attributes:
        stage: "folded", "frozen", "ONNX", "engine".
        passed: Whether it is inside its gate.
        largest_logit_difference: In absolute value.
        relative: `largest_logit_difference` over the largest |logit| of the reference.
        sqnr_db: Signal to error ratio in dB.
        agreement: Share of images with the reference's class, 0 to 1.
        same_partner: Share of merged tokens with the reference's partner, 0 to 1.
        unexplained_flips: Other partners although the reference was sure.
        audit: Images whose sizes sum to all tokens, such as "512/512".
        accuracy: Share of images with the right class, 0 to 1; None without labels.
    """

    stage: str
    passed: bool
    largest_logit_difference: float | None = None
    relative: float | None = None
    sqnr_db: float | None = None
    agreement: float | None = None
    same_partner: float | None = None
    unexplained_flips: int | None = None
    audit: str | None = None
    accuracy: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Headline:
    """A number that the reader came for, and what it is."""

    value: str
    label: str
    good: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class Picture:
    """A PNG with a caption; `alternative` says what it shows to those who cannot see it."""

    png: bytes
    caption: str
    alternative: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """Everything on the page; what is empty has no section.

    Attributes:
        title: Such as "digits-lora on cpu".
        subtitle: One sentence on the model.
        warnings: What a reader must know first, such as random weights.
        headlines: Two to four.
        steps: In order.
        parity: In order of the stages.
        parity_note: On which images, and against what.
        measurements: One chart each.
        pictures: In order.
        environment: Of the run; that of the first measurement when None.
        next_commands: To type next.
    """

    title: str
    subtitle: str = ""
    warnings: tuple[str, ...] = ()
    headlines: tuple[Headline, ...] = ()
    steps: tuple[Step, ...] = ()
    parity: tuple[ParityRow, ...] = ()
    parity_note: str = ""
    measurements: tuple[Measurement, ...] = ()
    pictures: tuple[Picture, ...] = ()
    environment: Environment | None = None
    next_commands: tuple[str, ...] = ()


def render_report(report: Report) -> str:
    """Return the page. It loads nothing and runs no script.

    Raises:
        MissingDependencyError: jinja2 or matplotlib is not installed.
    """
    jinja2 = registry.import_or_explain("jinja2")
    template = importlib.resources.files("benchmarks").joinpath("report.html.jinja")
    source = template.read_text(encoding="utf-8")
    settings = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    settings.filters.update(
        scientific=_scientific, percent=_percent, ms=lambda ns: f"{ns / 1e6:.2f}"
    )
    place = report.environment
    if place is None and report.measurements:
        place = report.measurements[0].environment
    page: str = settings.from_string(source).render(
        report=report,
        columns=_parity_columns(report.parity),
        drawings=[_drawings(entry, at) for at, entry in enumerate(report.measurements)],
        pictures=[(_data_uri(picture.png), picture) for picture in report.pictures],
        facts=environment_facts(place) if place else [],
    )
    return page + "\n"


def write_report(path: Path, report: Report, *, force: bool = False) -> None:
    """Write the page atomically.

    Raises:
        UsageError: The file exists and `force` is not given.
        MissingDependencyError: jinja2 or matplotlib is not installed.
    """
    storage.refuse_overwrite(path, force=force)
    storage.write_text(path, render_report(report))


def environment_facts(place: Environment) -> list[tuple[str, str]]:
    """Return what a reader wants to know of the machine, as label and value."""
    memory = f"{place.memory_bytes / _GIB:.1f} GiB" if place.memory_bytes else ""
    cores = f"{place.cores} cores, " if place.cores else ""
    kind = " (virtual machine)" if place.virtual else ""
    facts = [
        ("board", place.board or ""),
        ("CPU", f"{place.cpu}, {cores}{place.usable_processors} processors usable{kind}"),
        ("instruction sets", " ".join(place.isa)),
        ("governor", place.governor or ""),
        ("memory", memory),
        ("GPU", "; ".join(f"{gpu.name}, driver {gpu.driver}" for gpu in place.gpus)),
        ("system", f"{place.system}, kernel {place.kernel}"),
        ("load before", f"{place.load_1min:.2f}" if place.load_1min is not None else ""),
        ("Python", place.python),
        ("packages", ", ".join(f"{name} {version}" for name, version in place.packages.items())),
        ("commit", place.commit or ""),
        ("date", place.date),
    ]
    return [(label, value) for label, value in facts if value]


def _drawings(measurement: Measurement, place: int) -> dict[str, Any]:
    results = measurement.contenders
    return {
        "bars": charts.latency_bars(measurement, prefix=f"bars{place}"),
        "ratios": charts.ratio_intervals(measurement, prefix=f"ratios{place}")
        if measurement.valid and charts.is_comparable(results)
        else "",
        "has_device": any(result.device_p50_ns is not None for result in results),
        "has_peak": any(result.peak_share is not None for result in results),
    }


def _parity_columns(rows: Sequence[ParityRow]) -> list[tuple[str, str, Any]]:
    """Return (heading, attribute, format) of the columns that hold something."""
    columns: list[tuple[str, str, Any]] = [
        ("largest logit difference", "largest_logit_difference", _scientific),
        ("relative", "relative", _scientific),
        ("signal to noise (SQNR), dB", "sqnr_db", lambda value: f"{value:.1f}"),
        ("agreement", "agreement", _percent),
        ("same partner", "same_partner", _percent),
        ("unexplained flips", "unexplained_flips", str),
        ("token audit", "audit", str),
        ("accuracy", "accuracy", _percent),
    ]
    return [
        column for column in columns if any(getattr(row, column[1]) is not None for row in rows)
    ]


def _scientific(value: float) -> str:
    return "0" if value == 0 else f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e+")


def _percent(share: float) -> str:
    return "100 %" if share == 1 else f"{min(share * 100, 99.99):.2f} %"


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")
