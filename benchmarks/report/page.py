"""One self-contained HTML page: what was done, that it is still right, and whether it is faster."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

from benchmarks.conditions import gpu_state
from benchmarks.conditions.devices import runs_on_gpu
from benchmarks.conditions.environment import Environment
from benchmarks.conditions.gpu_state import GpuUse
from benchmarks.conditions.in_words import condition_facts
from benchmarks.conditions.watched import Conditions
from benchmarks.measurement import Measurement
from benchmarks.merge_verdict import merge_verdicts
from benchmarks.report import charts
from benchmarks.report.energy import energy_notes, energy_rows
from benchmarks.report.speed_words import hardware, measured_on, speed_sentence
from benchmarks.report.summary_line import summary_lines
from benchmarks.report.table import predictions
from benchmarks.report.templates import fill
from engines import storage
from engines.parity import table as parity_table
from engines.parity.rows import ParityTable

State = Literal["good", "bad", "open"]
"""Good news, bad news, or something that stays unknown."""

StepState = Literal["done", "warning", "failed"]
_FIRST_FIGURES = ("accuracy", "agreement", "cosine")
"""What a phone shows of a table without scrolling."""

_GIB = 1 << 30

RANDOM_WEIGHTS = "The weights are random: classes mean nothing, only speed does."
"""The warning of a page whose model was never trained."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Statement:
    """A sentence of the verdict.

    Attributes:
        about: "answers", "accuracy", "speed".
        text: The sentence.
        state: What news it is.
    """

    about: str
    text: str
    state: State


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
    """What stands on top of the page.

    Attributes:
        sentence: The whole result in one sentence.
        state: What news it is.
        command: What to type to learn what the sentence leaves open; empty where it leaves nothing.
        statements: The same with its figures, one sentence a subject.
    """

    sentence: str
    state: State
    command: str = ""
    statements: tuple[Statement, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tile:
    """A number that the reader came for, and what it is."""

    value: str
    label: str
    state: State = "good"


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineRow:
    """One engine that was built.

    Attributes:
        name: Its file.
        about: One line: precision, size, runtime.
        answers: Whether it ran, and what it said.
        state: State of the answers; "open" for an engine that did not run.
        accuracy: As text; empty where it is not known.
        speed: As text; empty where it was not measured.
    """

    name: str
    about: str
    answers: str
    state: State
    accuracy: str = ""
    speed: str = ""


@dataclasses.dataclass(frozen=True)
class BatchRow:
    """One contender at one batch size, as text; what is not known is empty."""

    batch: str
    name: str
    p50_ms: str
    baseline_ms: str
    images_per_s: str
    ratio: str
    interval: str
    verdict: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepLine:
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class File:
    """A file that was written: its name, its size where it is known, and what it is for."""

    name: str
    purpose: str
    size_bytes: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Picture:
    """PNGs side by side with one caption.

    Attributes:
        title: Above them.
        pngs: Each with a word below it, and with what it shows for those who cannot see it.
        caption: Below all of them.
    """

    title: str
    pngs: tuple[tuple[bytes, str, str], ...]
    caption: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Listing:
    """A table of plain cells.

    Attributes:
        title: Above it.
        rows: Heading first; the first cell of a row names it.
        notes: Below it, a sentence each.
    """

    title: str
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """Everything on the page; what is empty has no section.

    Attributes:
        title: Such as "digits on cpu and rtx".
        subtitle: One sentence on the model.
        verdict: What came out; None where nothing was judged.
        warnings: What a reader must know first, such as random weights.
        tiles: Two to four, of what ran.
        engines: All that were built.
        parity: Tables, each with its stages in order.
        rows_are: What a row of the tables is.
        listings: Tables of plain cells, in order.
        batches: The same contenders at several batch sizes.
        measurements: One chart each.
        measure_again: The command for a measurement that is not valid.
        pictures: In order.
        steps: In order.
        files: What was written.
        next_commands: To type next.
        environment: Environment of the run; that of the first measurement when None.
    """

    title: str
    subtitle: str = ""
    verdict: Verdict | None = None
    warnings: tuple[str, ...] = ()
    tiles: tuple[Tile, ...] = ()
    engines: tuple[EngineRow, ...] = ()
    parity: tuple[ParityTable, ...] = ()
    rows_are: str = "stage"
    listings: tuple[Listing, ...] = ()
    batches: tuple[BatchRow, ...] = ()
    measurements: tuple[Measurement, ...] = ()
    measure_again: str = ""
    pictures: tuple[Picture, ...] = ()
    steps: tuple[StepLine, ...] = ()
    files: tuple[File, ...] = ()
    next_commands: tuple[str, ...] = ()
    environment: Environment | None = None


def render_report(report: Report) -> str:
    """Return the page. It loads nothing and runs no script.

    Raises:
        MissingDependencyError: jinja2 or matplotlib is not installed.
    """
    where = report.environment
    used = next((entry.gpu for entry in report.measurements if entry.gpu is not None), None)
    known = (entry.conditions for entry in report.measurements if entry.conditions is not None)
    if where is None and report.measurements:
        where = report.measurements[0].environment
    return fill(
        "report.html.jinja",
        report=report,
        tables=[_table(table) for table in report.parity],
        speeds=[_speed(entry, index) for index, entry in enumerate(report.measurements)],
        facts=environment_facts(where, used, next(known, None)) if where else [],
    )


def report_of(measurement: Measurement, *, title: str, again: str) -> Report:
    """Return the page of a measurement alone.

    Args:
        measurement: It.
        title: Title of the page.
        again: The command that measures once more.
    """
    verdicts = [one.against.verdict for one in measurement.contenders if one.against is not None]
    is_good = measurement.valid and set(verdicts) <= {"faster"}
    merging = merge_verdicts([measurement])
    return Report(
        title=title,
        verdict=Verdict(
            sentence=speed_sentence(measurement),
            state="good" if is_good else "open",
            command="" if measurement.valid else again,
            statements=tuple(
                Statement(
                    about="merging",
                    text=f"{one.sentence()}.",
                    state="open" if one.pays is None else "good" if one.pays else "bad",
                )
                for one in merging
            ),
        ),
        measurements=(measurement,),
        measure_again=again,
    )


def write_report(path: Path, report: Report, *, force: bool = False) -> None:
    """Write the page atomically.

    Raises:
        UsageError: The file exists and `force` is not given.
        MissingDependencyError: jinja2 or matplotlib is not installed.
    """
    storage.refuse_overwrite(path, force=force)
    storage.write_text(path, render_report(report))


def environment_facts(
    where: Environment, used: GpuUse | None = None, conditions: Conditions | None = None
) -> list[tuple[str, str]]:
    """Return what a reader wants to know of the machine, as label and value.

    Args:
        where: The machine.
        used: The GPU that a measurement ran on, with its clocks.
        conditions: How the machine was set while it measured.
    """
    memory = f"{where.memory_bytes / _GIB:.1f} GiB" if where.memory_bytes else ""
    cores = f"{where.cores} cores, " if where.cores else ""
    kind = " (virtual machine)" if where.virtual else ""
    facts = [
        ("board", where.board or ""),
        ("JetPack", where.jetpack or ""),
        ("CPU", f"{where.cpu}, {cores}{where.usable_processors} processors usable{kind}"),
        ("instruction sets", " ".join(where.isa)),
        ("governor", where.governor or ""),
        ("memory", memory),
        *_gpu_facts(where, used),
        *([] if conditions is None else condition_facts(conditions)),
        ("system", f"{where.system}, kernel {where.kernel}"),
        ("load before", f"{where.load_1min:.2f}" if where.load_1min is not None else ""),
        ("Python", where.python),
        ("packages", ", ".join(f"{name} {version}" for name, version in where.packages.items())),
        ("commit", where.commit or ""),
        ("date", where.date),
    ]
    return [(label, value) for label, value in facts if value]


def _gpu_facts(where: Environment, used: GpuUse | None) -> list[tuple[str, str]]:
    if used is None:
        return [("GPU", "; ".join(map(gpu_state.in_words, where.gpus)))]
    limit = used.gpu.power_limit_w
    return [
        ("GPU", gpu_state.in_words(used.gpu)),
        ("GPU, first round", gpu_state.state_in_words(used.before, limit)),
        ("GPU, last round", gpu_state.state_in_words(used.after, limit)),
    ]


def _table(table: ParityTable) -> dict[str, Any]:
    """Return a parity table's figures and cells, those that a phone shows first."""
    figures = parity_table.shown(table.rows)
    figures.sort(key=lambda figure: figure.key not in _FIRST_FIGURES)
    rows = []
    for row in table.rows:
        values = [(figure, getattr(row, figure.key)) for figure in figures]
        cells = ["" if value is None else figure.text(value) for figure, value in values]
        rows.append((row, cells, parity_table.why_not(row)))
    return {
        "figures": figures,
        "rows": rows,
        "remarks": parity_table.remarks(table),
        "of": table,
    }


def _speed(measurement: Measurement, index: int) -> dict[str, Any]:
    """Return what is drawn of a measurement: no ratio of one that is not valid."""
    results = measurement.contenders
    compared = measurement.valid and charts.is_comparable(results)
    rival = next((one for one in results if one.name != measurement.baseline), results[0])
    return {
        "bars": charts.latency_bars(measurement, prefix=f"bars{index}"),
        "ratios": charts.ratio_intervals(measurement, prefix=f"ratios{index}") if compared else "",
        "is_compared": compared,
        "energy": energy_rows(measurement),
        "energy_notes": energy_notes(measurement),
        "has_device": any(result.device_p50_ns is not None for result in results),
        "has_peak": any(result.peak_share is not None for result in results),
        "summaries": summary_lines(measurement),
        "predictions": predictions(measurement),
        "hardware": hardware(measurement)
        if runs_on_gpu(rival.runtime)
        else measured_on(measurement, rival),
        "random": [
            result.name
            for result in results
            if result.artefact is not None and result.artefact.weights == "random"
        ],
    }
