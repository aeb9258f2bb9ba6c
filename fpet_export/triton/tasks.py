"""A folder of tasks in a model repository of Triton Inference Server: one entry a task.

The shared backbone is one model. A task is a small model of the python backend, which adds its
weights to a request and passes it on. So the backbone is in memory once an instance, whatever the
number of tasks.
"""

from __future__ import annotations

import dataclasses
import io
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from engines import storage
from engines.errors import UsageError
from engines.manifest import Manifest, TensorSpec, read_manifest
from engines.tasks.index import Structure, Task, TaskIndex
from engines.tasks.open_tasks import artefact_of
from engines.tasks.weights import assemble_task, read_base
from fpet_export.triton.config import LABELS, Serving, labels_of, model_config
from fpet_export.triton.repository import CONFIG, backend_of, label_text, write_model

WEIGHTS = "weights.npz"
_MODEL = Path(__file__).with_name("model.py")  # it imports what only the server has


def model_name(text: str) -> str:
    """Return a name for a model: "model.fp16" is called "model_fp16"."""
    return text.replace(".", "_")


def write_tasks(
    folder: Path,
    index: TaskIndex,
    how: Serving,
    repository: Path,
    *,
    version: int = 1,
    force: bool = False,
) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """Write every backbone and every task of a folder; return the folders of both.

    Args:
        folder: What `fpet-export tasks` wrote.
        index: Its index.
        how: How to serve the backbone; name and backend are found here.
        repository: The folder that `tritonserver --model-repository` gets.
        version: Name of the versions' folders.
        force: Replace files that exist.

    Raises:
        InputError: Triton cannot serve a backbone, or the folder cannot be written.
        TrustError: A file is not the one that the index names.
        UsageError: Two models have one name, a file exists already, or an engine is for another
            kind of processor.
    """
    graphs = [model_name(Path(one.graph.file).stem) for one in index.structures]
    _require_distinct([*graphs, *map(model_name, index.names)], folder)
    shared, backbones = [], []
    for structure, name in zip(index.structures, graphs, strict=True):
        artefact, manifest = _servable(folder, index, structure)
        serving = dataclasses.replace(how, name=name, backend=backend_of(artefact, manifest))
        backbones.append(
            write_model(artefact, manifest, serving, repository, version=version, force=force)
        )
        shared.append(manifest)
    tasks = [
        _write_task(
            folder, index, task, shared[task.structure], graphs[task.structure], how,
            repository, version=version, force=force,
        )
        for task in index.tasks
    ]  # fmt: skip
    return tuple(backbones), tuple(tasks)


def _servable(folder: Path, index: TaskIndex, structure: Structure) -> tuple[Path, Manifest]:
    """Return a plan of TensorRT where there is one, else the graph; its hash is checked."""
    path, manifest = artefact_of(folder, index, structure)
    if manifest.runtime is not None and manifest.runtime.flavour != "tensorrt":
        path = folder / structure.graph.file
    return path, read_manifest(path)


def _write_task(
    folder: Path,
    index: TaskIndex,
    task: Task,
    shared: Manifest,
    backbone: str,
    how: Serving,
    repository: Path,
    *,
    version: int,
    force: bool,
) -> Path:
    structure = index.structures[task.structure]
    manifest = _manifest_of(task, structure, shared)
    serving = Serving(
        name=model_name(task.name),
        backend="python",
        on_gpu=False,
        instances=how.instances,
        queue_delay_us=how.queue_delay_us,
        parameters={"backbone": backbone},
    )
    home = repository / serving.name
    model = home / str(version) / serving.file
    labels = labels_of(manifest)
    text = model_config(manifest, serving)
    for path in (home / CONFIG, model, model.with_name(WEIGHTS), home / LABELS):
        storage.refuse_overwrite(path, force=force)
    weights: dict[str, Any] = {**assemble_task(folder, index, task, read_base(folder, structure))}
    content = io.BytesIO()
    np.savez(content, **weights)
    storage.write_bytes(model.with_name(WEIGHTS), content.getbuffer())
    storage.write_bytes(model, _MODEL.read_bytes())
    if labels:
        storage.write_text(home / LABELS, label_text(labels))
    storage.write_text(home / CONFIG, text)
    return home


def _manifest_of(task: Task, structure: Structure, shared: Manifest) -> Manifest:
    """Return what a task is to its clients: the images in, its own logits out."""
    filled = {one.name for one in structure.inputs}
    first, *others = shared.outputs
    logits = TensorSpec(name=first.name, shape=(first.shape[0], task.classes), dtype=first.dtype)
    return dataclasses.replace(
        shared,
        kind="graph",
        file=task.delta.file,
        sha256=task.delta.sha256,
        inputs=tuple(spec for spec in shared.inputs if spec.name not in filled),
        outputs=(logits, *others),
        labels=task.labels,
        runtime=None,
        companions=(),
    )


def _require_distinct(names: list[str], folder: Path) -> None:
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise UsageError(
            f"two models would be called {', '.join(twice)}",
            where=str(folder),
            fix="write the tasks again, with other names: NAME=RUN",
        )
