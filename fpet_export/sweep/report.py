"""What a sweep shows at the end: a table, pictures, and a page; also CSV and Markdown."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.report.page import RANDOM_WEIGHTS, File, Listing, Picture, Report, write_report
from engines import storage
from engines.commands import command
from engines.plurals import counted
from fpet_export.pictures.cost_and_answers import Dot, cost_and_answers
from fpet_export.reporter import Reporter
from fpet_export.sweep import results
from fpet_export.sweep.request import SweepRequest
from fpet_export.sweep.results import Result
from fpet_export.sweep.store import PAGE, Store


def reported(
    request: SweepRequest,
    found: Sequence[Result],
    front: set[str],
    store: Store,
    reporter: Reporter,
) -> list[str]:
    """Print the table, and write all that people and programs read.

    Returns:
        Commands to type next.
    """
    notes = results.notes_on(found)
    rows = results.as_rows(found, front)
    reporter.line()
    reporter.table(rows)
    reporter.line()
    for note in notes:
        reporter.paragraph(note)
    storage.write_text(store.root / "sweep.csv", results.as_csv(found, front))
    storage.write_text(store.root / "sweep.md", results.as_markdown(found, front, notes=notes))
    pictures = list(_pictures(found, front, store.root))
    page, commands = store.root / PAGE, _next(request, found, front, store.root)
    write_report(
        page,
        Report(
            title=f"{counted(len(found), 'point')} of {', '.join(_runs(found))}",
            subtitle=f"merges {_values(found, 'merge')}; batches {_values(found, 'batch')}; "
            f"precisions {_values(found, 'precision')}; targets {_values(found, 'target')}",
            warnings=(RANDOM_WEIGHTS,) if any(one.weights == "random" for one in found) else (),
            pictures=tuple(pictures),
            listings=(Listing(title="All points", rows=tuple(rows), notes=tuple(notes)),),
            files=_files(store.root),
            next_commands=tuple(commands),
        ),
        force=True,
    )
    failed = sum(one.failure is not None for one in found)
    reporter.step(
        "points",
        f"{len(found) - failed} of {len(found)} computed, {len(front)} of them best",
        passed=not failed,
    )
    reporter.step("report", str(page))
    return commands


def _pictures(found: Sequence[Result], front: set[str], folder: Path) -> Iterator[Picture]:
    """Draw the points of each run and batch, as a file and for the page."""
    numbers = {one.point.name: number for number, one in enumerate(found, 1)}
    groups: dict[tuple[str, int], list[Result]] = {}
    for one in found:
        if one.failure is None and one.cost is not None and one.answers is not None:
            groups.setdefault((one.point.run, one.point.batch), []).append(one)
    for (run, batch), members in groups.items():
        most = max(one.cost or 0.0 for one in members)
        kind = members[0].kind
        cost = f"latency of one inference, as a share of {most / 1e6:.2f} ms"
        if members[0].latency is None:
            cost = f"multiply-adds of one image, as a share of {most / 1e9:.2f} GMAC"
        png = cost_and_answers(
            [_dot(one, str(numbers[one.point.name]), most, front) for one in members],
            kind=kind,
            limit=None,
            by="the number of the point",
            cost=cost,
        )
        title = f"{run}, batch {batch}"
        storage.write_bytes(folder / f"{run}.b{batch}.png", png)
        yield Picture(
            title=title,
            pngs=((png, title, f"{kind} over cost of {counted(len(members), 'point')}."),),
            caption="The numbers are those of the table. Filled: the best, which no other point "
            "beats in cost without answering worse.",
        )


def _dot(one: Result, label: str, most: float, front: set[str]) -> Dot:
    assert one.cost is not None and one.answers is not None
    is_best = one.point.name in front
    return Dot(
        label=label, cost=one.cost / most, answers=one.answers, chosen=is_best, keeps=is_best
    )


def _next(
    request: SweepRequest, found: Sequence[Result], front: set[str], folder: Path
) -> list[str]:
    commands = []
    best = [one for one in found if one.point.name in front and one.latency is not None]
    if best:
        fastest = min(best, key=lambda one: one.cost or 0.0)
        engine = request.out / str(fastest.engine)
        commands.append(command("bench", engine, "--against", "plain"))
    if any(one.failure is not None for one in found) and request.command:
        again = [word for word in request.command if word != "--retry-failed"]
        commands.append(shlex.join([*again, "--retry-failed"]))
    return commands


def _files(folder: Path) -> tuple[File, ...]:
    purposes = {
        "sweep.csv": "every figure of every point, for spreadsheets and programs",
        "sweep.md": "the table, to paste into a text",
        "points": "one JSON a point, with its error where it failed",
        "work": "graphs, engines, latencies and records; the next sweep goes on from them",
        "ledger.jsonl": "which step was begun and recorded when, and where",
    }
    return tuple(
        File(
            name=name,
            purpose=purpose,
            size_bytes=(folder / name).stat().st_size if (folder / name).is_file() else None,
        )
        for name, purpose in purposes.items()
        if (folder / name).exists()
    )


def _runs(found: Sequence[Result]) -> list[str]:
    return list(dict.fromkeys(one.point.run for one in found))


def _values(found: Sequence[Result], axis: str) -> str:
    return ", ".join(dict.fromkeys(str(getattr(one.point, axis)) for one in found))
