"""One artefact in a model repository of Triton Inference Server.

`REPOSITORY/NAME/config.pbtxt`, `labels.txt`, and `VERSION/model.plan` or `model.onnx` with its
manifest, so that what is served can be verified like every other artefact.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from engines import storage
from engines.commands import command, graph_of
from engines.errors import UsageError
from engines.manifest import Manifest, manifest_path, write_manifest
from fpet_export.triton.config import LABELS, Backend, Serving, labels_of, model_config

CONFIG = "config.pbtxt"


def backend_of(artefact: Path, manifest: Manifest) -> Backend:
    """Return which of Triton's backends serves an artefact.

    Raises:
        UsageError: None does.
    """
    flavour = "onnxruntime" if manifest.runtime is None else manifest.runtime.flavour
    if flavour == "tensorrt":
        return "tensorrt"
    if flavour != "onnxruntime":
        graph = graph_of(artefact, manifest)
        raise UsageError(
            f"Triton has no backend for engines of {flavour}",
            where=str(artefact),
            fix="serve its graph, or a plan of TensorRT"
            + ("" if graph is None else f": {command('build', graph, '--target', 'tensorrt')}"),
        )
    return "onnxruntime"


def require_place(artefact: Path, manifest: Manifest, serving: Serving) -> None:
    """Refuse an engine on a processor that it was not built for.

    Raises:
        UsageError: It was built for the other kind.
    """
    runtime = manifest.runtime
    if runtime is None:
        return
    is_for_gpu = runtime.flavour == "tensorrt" or runtime.settings.get("provider") == "cuda"
    if is_for_gpu != serving.on_gpu:
        kinds = {True: "a GPU", False: "the CPU"}
        raise UsageError(
            f"the engine was built for {kinds[is_for_gpu]}, and {kinds[serving.on_gpu]} is to run "
            "it",
            where=str(artefact),
            fix="leave --gpus and --cpu out, or serve the graph that it was built from",
        )


def write_model(
    artefact: Path,
    manifest: Manifest,
    serving: Serving,
    repository: Path,
    *,
    version: int = 1,
    force: bool = False,
) -> Path:
    """Write one model; return its folder.

    Every file appears whole or not at all, the configuration last. Other versions of the model
    stay.

    Args:
        artefact: A graph, a plan, or an engine of ONNX Runtime.
        manifest: Its own, checked.
        serving: How to serve it.
        repository: The folder that `tritonserver --model-repository` gets.
        version: Name of the version's folder.
        force: Replace files that exist.

    Raises:
        InputError: Triton cannot serve it, or the folder cannot be written.
        TrustError: The artefact changed since its manifest was checked.
        UsageError: A file exists already, or the engine is for another kind of processor.
    """
    require_place(artefact, manifest, serving)
    text = model_config(manifest, serving)
    home = repository / serving.name
    folder = home / str(version)
    model, config, labels = folder / serving.file, home / CONFIG, labels_of(manifest)
    companions = [(one, folder / one.file) for one in manifest.companions]
    written = [config, model, manifest_path(model), *(path for _, path in companions)]
    written += [home / LABELS] if labels else []
    for path in written:
        storage.refuse_overwrite(path, force=force)
    with storage.atomic_path(model) as temporary:
        for one, path in companions:
            copied = temporary.with_name(path.name)
            storage.copy_unchanged(artefact.with_name(one.file), copied, sha256=one.sha256)
        storage.copy_unchanged(artefact, temporary, sha256=manifest.sha256)
        write_manifest(temporary, dataclasses.replace(manifest, file=model.name))
    if labels:
        storage.write_text(home / LABELS, label_text(labels))
    storage.write_text(config, text)
    return home


def label_text(labels: Sequence[str]) -> str:
    """Return the text of a label file: a line a class, in the order of the logits."""
    return "".join(f"{' '.join(label.split())}\n" for label in labels)
