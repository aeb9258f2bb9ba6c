"""A model repository for Triton Inference Server: `TritonRequest`, `write`, what it wrote."""

from __future__ import annotations

import dataclasses
import re
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engines.errors import InputError, UsageError
from engines.imaging.preparation import preparation_in_words
from engines.manifest import Manifest, Preprocessing
from engines.tasks.index import read_index
from fpet_export.reporter import SILENT, Reporter
from fpet_export.requests import AllowFailed, Writing
from fpet_export.steps import trust, usable
from fpet_export.triton import config, repository
from fpet_export.triton.config import Backend, Serving
from fpet_export.triton.tasks import model_name, write_tasks

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TritonRequest(AllowFailed, Writing):
    """What is served, and how.

    Attributes:
        artefact: A graph, an engine, or a folder of tasks.
        out: The model repository.
        name: Name of the model; None takes the artefact's without its ending, "." as "_".
        instances: How many run at once, on each GPU or on the CPU.
        gpus: Numbers of the GPUs to use; None takes all that the server sees.
        cpu: Run on the CPU.
        queue_delay: Microseconds that a request may wait for others; None is no delay.
        model_version: Folder of the version; the server serves the newest.
    """

    artefact: Path
    out: Path
    name: str | None = None
    instances: int = dataclasses.field(default=1, metadata={"least": 1})
    gpus: tuple[int, ...] | None = None
    cpu: bool = False
    queue_delay: int | None = dataclasses.field(default=None, metadata={"least": 1})
    model_version: int = dataclasses.field(default=1, metadata={"least": 1})


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelWritten:
    """One model in a repository.

    Attributes:
        repository: Repository of the models.
        home: The model's folder.
        version: Version of the model.
        serving: How it is served.
        max_batch_size: Images that the server may gather; 0 where one request is one batch.
        config: The model's `config.pbtxt`.
        preprocessing: What clients do with an image; None where nobody knows.
        next: Commands to type next.
    """

    repository: Path
    home: Path
    version: int
    serving: Serving
    max_batch_size: int
    config: Path
    preprocessing: Preprocessing | None
    next: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "repository": str(self.repository),
            "model": self.serving.name,
            "version": self.version,
            "backend": self.serving.backend,
            "max_batch_size": self.max_batch_size,
            "kind": f"KIND_{_kind(self.serving)}",
            "config": str(self.config),
            "preprocessing": self.preprocessing and dataclasses.asdict(self.preprocessing),
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class TasksWritten:
    """The models of a folder of tasks.

    Attributes:
        repository: Repository of the models.
        version: Version of each model.
        serving: How they are served; its name is empty.
        backbones: Names of the models that tasks share.
        tasks: Name of each task's model, by the task's name.
        next: Commands to type next.
    """

    repository: Path
    version: int
    serving: Serving
    backbones: tuple[str, ...]
    tasks: Mapping[str, str]
    next: tuple[str, ...] = ()

    @property
    def home(self) -> Path:
        """The repository."""
        return self.repository

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "repository": str(self.repository),
            "version": self.version,
            "kind": f"KIND_{_kind(self.serving)}",
            "backbones": list(self.backbones),
            "tasks": dict(self.tasks),
        }


def write(request: TritonRequest, reporter: Reporter = SILENT) -> ModelWritten | TasksWritten:
    """Check an artefact or a folder of tasks, then write the repository.

    Raises:
        UsageError: Triton does not serve it, or not so.
        InputError: There is no such file, or its name cannot name a model.
        ParityError: Its check failed.
        TrustError: It is not what its manifest says.
    """
    if request.cpu and request.gpus is not None:
        raise UsageError(
            "a model runs on GPUs or on the CPU, and both were asked for",
            where="--cpu",
            fix="leave --cpu or --gpus out",
        )
    if request.artefact.is_dir():
        return _write_tasks(request, reporter)
    artefact = request.artefact
    manifest = trust.check(artefact, reporter)
    if not isinstance(manifest, Manifest):
        raise UsageError(
            "this is a bundle", where=str(artefact), fix="give the graph or the engine itself"
        )
    usable.require(artefact, manifest, request, reporter)
    serving = _serving_of(request, artefact, manifest)
    largest = config.max_batch_size(manifest)
    if request.queue_delay is not None and largest <= 1:
        raise UsageError(
            "the server has no batches to wait for: the batch is static, or 1 at most",
            where="--queue-delay",
            fix="leave it out, or export with --batch dyn:1-8",
        )
    if manifest.weights == "random":
        reporter.step("weights", "random, good for speed only", passed=None)
    home = repository.write_model(
        artefact, manifest, serving, request.out, version=request.model_version, force=request.force
    )
    batching = f"batches up to {largest}" if largest else "one batch a request"
    reporter.step(
        "triton",
        f"{serving.name}: {serving.backend}, {batching}, {serving.instances} x {_kind(serving)}",
    )
    if manifest.preprocessing is not None:
        reporter.step("clients", f"send {preparation_in_words(manifest.preprocessing)}")
    if manifest.runtime is not None:
        runtime = manifest.runtime
        reporter.step(
            "server",
            f"needs {runtime.flavour} {runtime.version} (docs/triton.md: how to read an image's)",
            passed=None,
        )
    return ModelWritten(
        repository=request.out,
        home=home,
        version=request.model_version,
        serving=serving,
        max_batch_size=largest,
        config=home / repository.CONFIG,
        preprocessing=manifest.preprocessing,
        next=_next(request.out),
    )


def _write_tasks(request: TritonRequest, reporter: Reporter) -> TasksWritten:
    """Write the backbone and every task of a folder."""
    folder = request.artefact
    if request.name is not None:
        raise UsageError(
            "a folder of tasks becomes several models, called after the graphs and the tasks",
            where="--name",
            fix="leave it out, or name the tasks when they are written: NAME=RUN",
        )
    index = read_index(folder)
    usable.require_tasks(folder, index, index.names, request, reporter)
    how = _serving(request, name="", backend="onnxruntime", target=index.target)
    backbones, tasks = write_tasks(
        folder, index, how, request.out, version=request.model_version, force=request.force
    )
    for home in backbones:
        reporter.step("backbone", f"{home.name}, {request.instances} x {_kind(how)}")
    for task, home in zip(index.tasks, tasks, strict=True):
        backbone = backbones[task.structure].name
        reporter.step("task", f"{home.name}: {task.classes} classes, on {backbone}")
    return TasksWritten(
        repository=request.out,
        version=request.model_version,
        serving=how,
        backbones=tuple(home.name for home in backbones),
        tasks={task.name: home.name for task, home in zip(index.tasks, tasks, strict=True)},
        next=_next(request.out),
    )


def _next(folder: Path) -> tuple[str, ...]:
    """Return how to serve it, where the server is."""
    if shutil.which("tritonserver") is None:
        return ()
    return (shlex.join(("tritonserver", "--model-repository", str(folder))),)


def _serving_of(request: TritonRequest, artefact: Path, manifest: Manifest) -> Serving:
    name = request.name or model_name(artefact.stem)
    if not _NAME.fullmatch(name):
        raise InputError(
            f"{name!r} cannot name a model: use letters, digits, '_' and '-'",
            where=str(artefact),
            fix="choose one: --name NAME",
        )
    backend = repository.backend_of(artefact, manifest)
    return _serving(request, name=name, backend=backend, target=manifest.target)


def _serving(request: TritonRequest, *, name: str, backend: Backend, target: str) -> Serving:
    is_for_cpu = request.cpu or (target == "cpu" and request.gpus is None)
    return Serving(
        name=name,
        backend=backend,
        on_gpu=not is_for_cpu,
        instances=request.instances,
        gpus=request.gpus or (),
        queue_delay_us=request.queue_delay,
    )


def _kind(serving: Serving) -> str:
    return "GPU" if serving.on_gpu else "CPU"
