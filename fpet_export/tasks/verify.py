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

from engines import storage
from engines.errors import ParityError
from engines.imaging.images import ImageSet
from engines.manifest import Manifest, read_manifest, write_manifest
from engines.parity.gates import Gates, gates_of
from engines.parity.model_outputs import ModelOutputs
from engines.parity.outputs import engine_outputs
from engines.parity.rows import ParityTable, failed_row
from engines.precisions import FP16, FP32
from engines.tasks.index import read_index
from engines.tasks.open_tasks import TaskSet
from fpet_export.stages import Adapted
from fpet_export.steps.float64_reference import REFERENCE, begin
from fpet_export.steps.graph_outputs import graph_outputs
from fpet_export.steps.one_task import audited
from fpet_export.tasks.export import Runs
from fpet_export.tasks.options import TaskOptions
from fpet_export.tasks.task_parity import OWN_EXPORT, PARITY_FILE, TaskParity, tables_json

Progress = Callable[[str, int, int], None]
"""`progress(task, done, total)`."""


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
                one = _failed(name, images[name], error)
            _store(folder / index.tasks[number].delta.file, one)
            found.append(one)
            if progress is not None:
                progress(name, number + 1, len(index.names))
    text = json.dumps(tables_json(found), indent=1)
    storage.write_text(folder / PARITY_FILE, text + "\n")
    return found


def _compare(
    tasks: TaskSet, name: str, run: Adapted, images: ImageSet, options: TaskOptions
) -> TaskParity:
    model = begin(run, images)
    handle = tasks.task(name)
    shared = handle.manifest()
    gates = _gates(shared, options, run)
    export = dataclasses.replace(
        model,
        name=OWN_EXPORT,
        # A graph does not know how sure its match was.
        outputs=dataclasses.replace(
            _single_outputs(run, images, options), margin=model.outputs.margin
        ),
    )
    outputs = engine_outputs(handle, shared, images.pixels)
    return TaskParity(
        name=name,
        model=model.table([model.compare(name, outputs, gates=gates)]),
        export=export.table([export.compare(name, outputs, gates=gates)]),
    )


def _failed(name: str, images: ImageSet, error: ParityError) -> TaskParity:
    rows = (failed_row(name, len(images), error.what),)
    table = ParityTable(**images.in_words(), reference=REFERENCE, rows=rows)
    return TaskParity(
        name=name, model=table, export=dataclasses.replace(table, reference=OWN_EXPORT)
    )


def _gates(shared: Manifest, options: TaskOptions, run: Adapted) -> Gates:
    """Return what half precision, of the graph or of the factors, must keep."""
    is_half = shared.precision == FP16 or (options.half == FP16 and run.checkpoint.bit == 32)
    return gates_of(FP16 if is_half else FP32)


def _single_outputs(run: Adapted, images: ImageSet, options: TaskOptions) -> ModelOutputs:
    """Export a run by itself and classify the images with its graph."""
    frozen = run.fold().freeze(
        batch=options.batch, target=options.resolved, input=options.input, opset=options.opset
    )
    with tempfile.TemporaryDirectory(prefix="fpet-export-") as folder:
        graph = frozen.to_onnx(Path(folder) / "single.onnx")
        return graph_outputs(graph, images.pixels)


def _store(delta: Path, one: TaskParity) -> None:
    """Add to a task's manifest what was found."""
    manifest = read_manifest(delta)
    assert manifest.task is not None
    document = tables_json([one])
    error = one.single.relative if math.isfinite(one.single.relative) else None
    facts = dataclasses.replace(manifest.task, logit_error=error)
    write_manifest(delta, dataclasses.replace(manifest, task=facts, parity=document))
