"""What one run adds to a shared backbone: its file, its manifest, its line of the index."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from engines.manifest import Manifest, TaskFacts, TensorSpec, write_manifest
from engines.precisions import FP16, FP32, FactorName
from engines.tasks.delta import FloatArray, write_delta
from engines.tasks.index import FOLDER, Task, store
from fpet_export.model.checkpoints import _records
from fpet_export.stages import Adapted, parents_of
from fpet_export.tasks.template import HEAD, REFINEMENT


def write_task(
    folder: Path,
    name: str,
    run: Adapted,
    *,
    structure: int,
    graph: Manifest,
    backbone: str,
    half: FactorName,
    labels: Sequence[str],
    file: str | None = None,
) -> Task:
    """Write one task's file with its manifest.

    Args:
        folder: Folder of the tasks.
        name: The task's.
        run: It.
        structure: Position of its graph in the index.
        graph: Manifest of that graph.
        backbone: Fingerprint of the backbone.
        half: How dense factors are kept.
        labels: Class names; empty when unknown.
        file: Where in the folder it goes; None for `tasks/NAME.safetensors`.

    Returns:
        Its line of the index.
    """
    found = run.checkpoint
    blocks: dict[str, list[FloatArray]] = {}
    for factors in found.factors:
        for layer, weight in factors.items():
            blocks.setdefault(layer, []).append(weight.numpy())
    single: dict[str, FloatArray] = {key: tensor.numpy() for key, tensor in found.head.items()}
    if found.refinement is not None:
        down, up = found.refinement
        single |= {_records.REFINEMENT_DOWN: down.numpy(), _records.REFINEMENT_UP: up.numpy()}
    file = file or delta_file(name)
    write_delta(
        folder / file,
        task=name,
        backbone=backbone,
        blocks=blocks,
        single=single,
        bits=found.bit,
        factor_precision=half,
    )
    is_rounded = half == FP16 and found.bit == 32
    classes = run.model.spec.classes
    assert graph.model is not None
    manifest = dataclasses.replace(
        graph,
        kind="task",
        inputs=(),
        outputs=(
            TensorSpec(name="logits", shape=(graph.outputs[0].shape[0], classes), dtype="float32"),
        ),
        weights=run.quality,
        labels=tuple(labels),
        model=dataclasses.replace(
            graph.model,
            classes=classes,
            method=found.method,
            bit=found.bit,
            dim=found.dim,
            scale=found.scale,
            macs=sum(found.macs(run.model.spec, last=graph.model.tokens[-1])),
        ),
        task=TaskFacts(
            name=name,
            backbone=backbone,
            half=FP16 if is_rounded else FP32,
            factor_error=_rounding(blocks) if is_rounded else 0.0,
        ),
        operators={},
        probes={},
        companions=(),
        parents=parents_of(run),
    )
    write_manifest(folder / file, manifest)
    return Task(
        name=name,
        delta=store(folder, file),
        structure=structure,
        parts=parts_of(run),
        scale=1.0 if found.scale is None else found.scale,
        classes=classes,
        labels=tuple(labels),
    )


def delta_file(name: str, version: int = 1) -> str:
    """Return where a task's file lies in the folder; a later version replaced an earlier one."""
    return f"{FOLDER}/{name}{'' if version == 1 else f'.{version}'}.safetensors"


def parts_of(run: Adapted) -> tuple[str, ...]:
    """Return what a run brings to a shared graph, see `engines.tasks.index.Task`."""
    found = run.checkpoint
    method = () if found.method == "none" else (found.method,)
    refinement = () if found.refinement is None else (REFINEMENT,)
    return (*method, *refinement, HEAD)


def _rounding(blocks: Mapping[str, Sequence[FloatArray]]) -> float:
    """Return the largest difference that float16 makes to a factor, over its layer's largest."""
    worst = 0.0
    for layers in blocks.values():
        for weight in layers:
            peak = float(np.abs(weight).max())
            if peak:
                difference = weight - weight.astype(np.float16).astype(np.float32)
                worst = max(worst, float(np.abs(difference).max()) / peak)
    return worst
