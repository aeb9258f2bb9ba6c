"""Parity of every task in a folder: with its float64 model, and with its own export.

The two say different things. The first is what a single export is held to. The second compares two
graphs in the same runtime: what sharing a backbone did to the answers.
"""

from __future__ import annotations

import dataclasses
import json
import math
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from engines import storage
from engines.errors import ParityError
from engines.imaging.images import ImageSet
from engines.manifest import Manifest, read_manifest, write_manifest
from engines.parity.outputs import engine_outputs
from engines.parity.rows import (
    Gates,
    ModelOutputs,
    ParityTable,
    StageParity,
    compare_stage,
    failed_row,
    gates_of,
    judge,
)
from engines.tasks.index import read_index
from engines.tasks.open_tasks import TaskSet
from fpet_export.stages import Adapted
from fpet_export.steps import verify
from fpet_export.steps.one_task import audited
from fpet_export.tasks.export import Runs, TaskOptions

PARITY_FILE = "parity.json"
OWN_EXPORT = "task's own export in float32"

Progress = Callable[[str, int, int], None]
"""`progress(task, done, total)`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskParity:
    """One task, compared twice.

    Attributes:
        name: The task.
        images: What it was compared on, in words.
        labels: How its labels were found; None without.
        left_out: Files of its set that are not among the images.
        reference: Against its adapted model in float64.
        single: Against the graph that exporting it by itself gives.
    """

    name: str
    images: str
    labels: str | None
    left_out: tuple[str, ...]
    reference: StageParity
    single: StageParity


def verify_tasks(
    folder: Path,
    runs: Runs,
    images: Mapping[str, ImageSet],
    options: TaskOptions,
    *,
    progress: Progress | None = None,
) -> list[TaskParity]:
    """Compare every task of a folder, and store what was found.

    Writes `parity.json`, and each task's rows into its manifest.

    Args:
        folder: As `fpet_export.tasks.export.export_tasks` wrote it.
        runs: The runs that it was written from.
        images: What to compare each on.
        options: How it was written; the single exports are made for the same target.
        progress: Called after every task.

    Returns:
        One entry a task, in the order of the folder.
    """
    index = read_index(folder)
    found = []
    with audited(folder, index) as tasks:
        for number, name in enumerate(index.names):
            try:
                one = _compare(tasks, name, runs[name], images[name], options)
            except ParityError as error:  # kept like any other failure, and judged with them
                row = failed_row(name, len(images[name]), error.what)
                one = TaskParity(name=name, **images[name].in_words(), reference=row, single=row)
            _store(folder / index.tasks[number].delta.file, one)
            found.append(one)
            if progress is not None:
                progress(name, number + 1, len(index.names))
    text = json.dumps(tables_json(found), indent=1)
    storage.write_text(folder / PARITY_FILE, text + "\n")
    return found


def tables(found: list[TaskParity]) -> tuple[ParityTable, ParityTable]:
    """Return the tasks as two tables: against float64, and against their own exports."""
    known = [one.labels for one in found if one.labels is not None]
    left_out = dict.fromkeys(word for one in found for word in one.left_out)
    empty = ParityTable(
        images=", ".join(dict.fromkeys(one.images for one in found)),
        labels=", ".join(dict.fromkeys(known)) or None,
        left_out=tuple(left_out),
        reference=verify.REFERENCE,
        rows=(),
    )
    return (
        dataclasses.replace(empty, rows=tuple(one.reference for one in found)),
        dataclasses.replace(empty, reference=OWN_EXPORT, rows=tuple(one.single for one in found)),
    )


def tables_json(found: list[TaskParity]) -> dict[str, Any]:
    """Return both tables as plain JSON values."""
    reference, single = tables(found)
    return {"reference": reference.to_json(), "single": single.to_json()}


def require(found: list[TaskParity]) -> None:
    """Raise a ParityError that names the first task which drifted, if one did."""
    for table in tables(found):
        judge(table, fix=f"the tables above and {PARITY_FILE} show every task; report this")


def _compare(
    tasks: TaskSet, name: str, run: Adapted, images: ImageSet, options: TaskOptions
) -> TaskParity:
    check = verify.begin(run, images)
    handle = tasks.task(name)
    shared = handle.manifest()
    evidence = engine_outputs(handle, shared, images.pixels)
    single = _single_outputs(run, images, options)
    gates = _gates(shared, options, run)
    margin = check.reference.margin  # a graph does not know how sure its match was
    return TaskParity(
        name=name,
        **images.in_words(),
        reference=check.row(name, evidence, gates=gates),
        single=compare_stage(
            name,
            evidence,
            dataclasses.replace(single, margin=margin),
            gates=gates,
            patches=check.tokens,
            labels=images.labels,
        ),
    )


def _gates(shared: Manifest, options: TaskOptions, run: Adapted) -> Gates:
    """Return what half precision, of the graph or of the factors, must keep."""
    is_half = shared.precision == "fp16" or (options.half == "fp16" and run.checkpoint.bit == 32)
    return gates_of("fp16" if is_half else "fp32")


def _single_outputs(run: Adapted, images: ImageSet, options: TaskOptions) -> ModelOutputs:
    """Export a run by itself and classify the images with its graph."""
    frozen = run.fold().freeze(
        batch=options.batch, target=options.place, input=options.input, opset=options.opset
    )
    with tempfile.TemporaryDirectory(prefix="fpet-export-") as folder:
        graph = frozen.to_onnx(Path(folder) / "single.onnx")
        return verify.graph_outputs(graph, images.pixels)


def _store(delta: Path, one: TaskParity) -> None:
    """Add to a task's manifest what was found."""
    manifest = read_manifest(delta)
    assert manifest.task is not None
    document = tables_json([one])
    error = one.single.relative if math.isfinite(one.single.relative) else None
    facts = dataclasses.replace(manifest.task, logit_error=error)
    write_manifest(delta, dataclasses.replace(manifest, task=facts, parity=document))
