"""The HTML page of a folder of tasks: whether every task still says what its run said."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.report.page import (
    RANDOM_WEIGHTS,
    File,
    Report,
    Statement,
    Tile,
    Verdict,
    write_report,
)
from engines.imaging.class_names import is_sure
from engines.manifest import manifest_path
from engines.plurals import counted
from engines.tasks.index import FILE
from fpet_export.reporter import FinishedStep
from fpet_export.tasks import task_parity
from fpet_export.tasks.task_parity import PARITY_FILE, TaskParity
from fpet_export.workflow import deployment_page

if TYPE_CHECKING:
    from engines.parity.rows import ParityTable, StageParity
    from engines.tasks.index import TaskIndex


def write(
    path: Path,
    *,
    folder: Path,
    index: TaskIndex,
    found: Sequence[TaskParity],
    steps: Sequence[FinishedStep],
    is_random: bool,
    force: bool,
) -> None:
    """Write the page.

    Args:
        path: Path of the page.
        folder: Folder of the tasks, where their files lie.
        index: Index of the folder.
        found: How every task compares.
        steps: As the terminal showed them.
        is_random: Whether weights are random.
        force: Whether a page that exists is replaced.
    """
    page = report(folder, index, found, steps)
    if is_random:
        page = dataclasses.replace(page, warnings=(RANDOM_WEIGHTS,))
    write_report(path, page, force=force)


def report(
    folder: Path, index: TaskIndex, found: Sequence[TaskParity], steps: Sequence[FinishedStep]
) -> Report:
    """Return the page's content; see `write`."""
    tables = task_parity.tables(found)
    failed = next((row for table in tables for row in table.rows if not row.passed), None)
    files = _files(folder, index)
    bench = f"fpet-export bench {shlex.quote(str(folder))}"
    return Report(
        title=f"{counted(len(index.tasks), 'task')} on one backbone, for {index.target}",
        subtitle=", ".join(index.names),
        verdict=Verdict(
            sentence=_sentence(tables[0], failed),
            state="bad" if failed is not None else "open",
            command="" if failed is not None else bench,
            statements=tuple(_statement(table) for table in tables),
        ),
        tiles=_tiles(index, tables[0], files),
        parity=tables,
        rows_are="task",
        steps=deployment_page.shown_steps(steps),
        files=files,
        next_commands=(
            f"fpet-export predict {shlex.quote(str(folder))} --task {index.names[0]} IMAGE",
            bench,
        ),
    )


def _sentence(table: ParityTable, failed: StageParity | None) -> str:
    if failed is not None:
        return (
            f"The answers of {failed.stage} are not equal ({'; '.join(failed.failures)}). "
            "Do not use this folder."
        )
    same, images = _same(table.rows)
    many = len(table.rows) > 1
    all_of_them = "Both" if len(table.rows) == 2 else f"All {len(table.rows)}"
    who = f"{all_of_them} tasks give" if many else f"{table.rows[0].stage} gives"
    model = "their fine-tuned models" if many else "its fine-tuned model"
    where = f"all {counted(images, 'image')}" if same == images else f"{same} of {images} images"
    speed = "their speed was not measured" if many else "its speed was not measured"
    return f"{who} the same class as {model} on {where}; {speed}."


def _statement(table: ParityTable) -> Statement:

    failures = [f"{row.stage}: {'; '.join(row.failures)}" for row in table.rows if not row.passed]
    same, images = _same(table.rows)
    text = f"{same} of {images} images keep their class, against the {table.reference}"
    return Statement(
        about="answers",
        text=f"not equal against the {table.reference}: {'. '.join(failures)}"
        if failures
        else text,
        state="bad" if failures else "good" if same == images else "open",
    )


def _tiles(index: TaskIndex, table: ParityTable, files: Sequence[File]) -> tuple[Tile, ...]:

    same, images = _same(table.rows)
    worst = max(table.rows, key=lambda row: row.largest_logit_difference)
    passed = all(row.passed for row in table.rows)
    graphs = counted(len(index.structures), "graph")
    size = sum(file.size_bytes or 0 for file in files)
    shown = [
        Tile(
            value=f"{same}/{images}",
            label="images of all tasks keep their class (agreement)",
            state="bad" if not passed else "good" if same == images else "open",
        ),
        Tile(
            value=f"{worst.largest_logit_difference:.1e}",
            label=f"largest logit difference ({worst.stage})",
            state="good" if worst.passed else "bad",
        ),
        Tile(
            value=f"{size / 1e6:.1f} MB", label=f"{counted(len(index.tasks), 'task')} on {graphs}"
        ),
    ]
    known = [row for row in table.rows if row.accuracy is not None]
    if known:
        low = min(known, key=lambda row: row.accuracy or 0.0)
        label = "lowest accuracy" if len(known) > 1 else "accuracy"
        tile = Tile(value=f"{low.accuracy:.1%}", label=f"{label} ({low.stage})")
        if not is_sure(table.labels):
            tile = Tile(
                value=f"{tile.value}?", label=f"{tile.label}, labels {table.labels}", state="open"
            )
        shown.insert(2, tile)
    return tuple(shown)


def _files(folder: Path, index: TaskIndex) -> tuple[File, ...]:
    named = {FILE: "which tasks and graphs belong together"}
    named[PARITY_FILE] = "how far every task is from its reference, for programs"
    for structure in index.structures:
        tasks = counted(
            sum(index.structures[one.structure] is structure for one in index.tasks), "task"
        )
        named[structure.graph.file] = f"the graph that serves {tasks}"
        if structure.base is not None:
            named[structure.base.file] = "what the graph's inputs start from"
    for task in index.tasks:
        named[task.delta.file] = f"the weights of {task.name}"
    names = dict(named)
    for name in named:
        beside = manifest_path(folder / name).relative_to(folder).as_posix()
        names.setdefault(beside, "inputs, preprocessing, labels and hashes; keep it beside")
    return tuple(
        File(name=name, purpose=purpose, size_bytes=(folder / name).stat().st_size)
        for name, purpose in names.items()
        if (folder / name).is_file()
    )


def _same(rows: Sequence[StageParity]) -> tuple[int, int]:
    """Return how many images of all rows keep their class, and how many there are."""
    return sum(row.same_images or 0 for row in rows), sum(row.images for row in rows)
