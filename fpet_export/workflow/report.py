"""`report`: results of many measurements and boards as one page, one table, one CSV."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from benchmarks.report.fleet import Group, groups_of
from benchmarks.report.fleet_page import render_fleet, sentence, verdict
from benchmarks.report.fleet_text import csv_text, markdown
from benchmarks.report.gathering import Gathered, Skipped, gather
from engines import storage
from engines.errors import UsageError
from fpet_export.reporter import SILENT, Reporter
from fpet_export.requests import Request, Writing

SCHEMA = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReportRequest(Writing, Request):
    """Measurements to put side by side.

    Attributes:
        results: Files that `bench` or `deploy` wrote, or folders of them.
        html: Page to write.
        markdown: Table for a README to write.
        csv: Table for a spreadsheet to write.
    """

    results: tuple[Path, ...]
    html: Path | None = None
    markdown: Path | None = None
    csv: Path | None = None

    @property
    def outputs(self) -> dict[str, Path]:
        """The files to write, by their option."""
        named = {"--html": self.html, "--markdown": self.markdown, "--csv": self.csv}
        return {option: path for option, path in named.items() if path is not None}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reported:
    """What was put together.

    Attributes:
        groups: The results, by network and batch.
        skipped: Files of folders that hold none.
        written: Files that were written.
    """

    groups: tuple[Group, ...]
    skipped: tuple[Skipped, ...]
    written: tuple[Path, ...]

    @property
    def markdown(self) -> str:
        """The tables as Markdown."""
        return markdown(self.groups, self.skipped)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "kind": "report",
            "schema": SCHEMA,
            "groups": [dataclasses.asdict(group) for group in self.groups],
            "skipped": [dataclasses.asdict(one) for one in self.skipped],
            "written": list(map(str, self.written)),
        }


def report(request: ReportRequest, reporter: Reporter = SILENT) -> Reported:
    """Put measurements side by side, show them, and write what is asked for.

    Raises:
        InputError: A file that is named is no measurement, or a folder holds none.
        UsageError: An output exists, or two outputs have one name.
        MissingDependencyError: jinja2 is not installed, and a page is asked for.
    """
    _refuse(request)
    gathered = gather(request.results)
    _refuse_inputs(request, gathered)
    groups = groups_of(gathered.found)
    texts = {
        "--html": lambda: render_fleet(groups, gathered.skipped, title=_title(request)),
        "--markdown": lambda: markdown(groups, gathered.skipped),
        "--csv": lambda: csv_text(groups),
    }
    for option, path in request.outputs.items():
        storage.write_text(path, texts[option]())
    _show(groups, gathered.skipped, reporter)
    return Reported(
        groups=groups, skipped=gathered.skipped, written=tuple(request.outputs.values())
    )


def _refuse(request: ReportRequest) -> None:
    if not request.results:
        raise UsageError(
            "no result was given", where="report", fix="name files or folders of measurements"
        )
    seen: dict[Path, str] = {}
    for option, path in request.outputs.items():
        storage.refuse_overwrite(path, force=request.force)
        other = seen.setdefault(path.resolve(), option)
        if other != option:
            raise UsageError(
                f"{path} would be written twice, as {other} and as {option}",
                where=option,
                fix="give the outputs names of their own",
            )


def _refuse_inputs(request: ReportRequest, gathered: Gathered) -> None:
    """Refuse an output that is a measurement in a folder that is read, `--force` or not.

    Raises:
        UsageError: There is one.
    """
    read = {Path(one.file).resolve() for one in gathered.found}
    for option, path in request.outputs.items():
        if path.resolve() in read:
            raise UsageError(
                f"the output {path} is a measurement that is read, and would replace it",
                where=option,
                fix="choose another output",
            )


def _title(request: ReportRequest) -> str:
    return f"Results of {', '.join(path.name or str(path) for path in request.results[:3])}"


def _show(groups: tuple[Group, ...], skipped: tuple[Skipped, ...], reporter: Reporter) -> None:
    for group in groups:
        reporter.line()
        reporter.paragraph(f"{group.network}, batch {group.batch}")
        rows = [("device", "engine", "p50 ms", "p99 ms", "verdict")]
        for row in group.rows:
            words, _ = verdict(row)
            times = (f"{row.p50_ms:.2f}", f"{row.p99_ms:.2f}")
            rows.append((row.place, row.engine, *times, words))
        reporter.table(rows, words=True)
        if group.ranked_by:
            reporter.paragraph(f"on the front of its device by {group.ranked_by}")
    for one in skipped:
        reporter.bullet(f"skipped {one.file}: {one.reason}")
    reporter.line()
    reporter.paragraph(sentence(groups, skipped))
