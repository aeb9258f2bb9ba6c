"""`fpet-export triton X -o REPO`: a model repository that Triton Inference Server loads."""

from __future__ import annotations

import argparse
import dataclasses
import re
import shlex
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from engines.errors import InputError, UsageError
from engines.imaging.preparation import preparation_in_words
from fpet_export.cli import arguments
from fpet_export.cli.verbs import Outcome
from fpet_export.reporter import Reporter
from fpet_export.workflow import trust, usable

if TYPE_CHECKING:
    from engines.manifest import Manifest
    from fpet_export.triton.config import Serving

GROUP = "use"
HELP = "write a model repository for Triton Inference Server"
DESCRIPTION = """\
Write REPO/NAME/config.pbtxt and REPO/NAME/1/model.plan or model.onnx, with the class names and the
manifest. A plan of TensorRT is served by the tensorrt backend, a graph or an engine of ONNX Runtime
by the onnxruntime backend. A dynamic batch is batched by the server; a static one is one request.
For a folder of tasks the backbone becomes one model and each task another, with its weights only.

A plan loads only into the TensorRT that built it; docs/triton.md says which images have which.

  fpet-export triton out/model.fp16.tensorrt.plan -o models --instances 2 --gpus 0
"""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument(
        "artefact", type=Path, metavar="X", help="a graph, an engine, or a folder of tasks"
    )
    arguments.add_output(parser, what="the model repository", required=True)
    parser.add_argument("--name", help="name of the model (default: X without ending, '.' as '_')")
    parser.add_argument(
        "--instances",
        type=arguments.positive,
        default=1,
        metavar="N",
        help="how many run at once, on each GPU or on the CPU (default: 1)",
    )
    arguments.add_failed(parser)
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--gpus", type=_numbers, metavar="0,1", help="GPUs to use (default: all that it sees)"
    )
    where.add_argument("--cpu", action="store_true", help="run on the CPU")
    parser.add_argument(
        "--queue-delay",
        type=arguments.positive,
        metavar="US",
        help="microseconds that a request may wait for others (default: none)",
    )
    parser.add_argument(
        "--model-version",
        type=arguments.positive,
        default=1,
        metavar="N",
        help="folder of the version; the server serves the newest (default: 1)",
    )


def run(options: argparse.Namespace, reporter: Reporter) -> Outcome:
    """Check the artefact, then write the repository."""
    if options.artefact.is_dir():
        return _run_tasks(options, reporter)
    from engines.manifest import Manifest
    from fpet_export.triton import config
    from fpet_export.triton import repository as triton_repository

    artefact: Path = options.artefact
    manifest = trust.check(artefact, reporter)
    if not isinstance(manifest, Manifest):
        raise UsageError(
            "this is a bundle", where=str(artefact), fix="give the graph or the engine itself"
        )
    usable.require(artefact, manifest, options, reporter)
    serving = _serving(options, artefact, manifest)
    largest = config.max_batch_size(manifest)
    if options.queue_delay is not None and largest <= 1:
        raise UsageError(
            "there are no batches to wait for: the batch is static, or 1 at most",
            where="--queue-delay",
            fix="leave it out, or export with --batch dyn:1-8",
        )
    if manifest.weights == "random":
        reporter.step("weights", "random, good for speed only", passed=None)
    home = triton_repository.write_model(
        artefact, manifest, serving, options.out, version=options.model_version, force=options.force
    )
    batching = f"batches up to {largest}" if largest else "one batch a request"
    kind = "GPU" if serving.on_gpu else "CPU"
    reporter.step(
        "triton", f"{serving.name}: {serving.backend}, {batching}, {serving.instances} x {kind}"
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
    return Outcome(
        document={
            "repository": str(options.out),
            "model": serving.name,
            "version": options.model_version,
            "backend": serving.backend,
            "max_batch_size": largest,
            "kind": f"KIND_{kind}",
            "config": str(home / triton_repository.CONFIG),
            "preprocessing": manifest.preprocessing and dataclasses.asdict(manifest.preprocessing),
        },
        result=str(home),
        next=_next(options.out),
    )


def _run_tasks(options: argparse.Namespace, reporter: Reporter) -> Outcome:
    """Write the backbone and every task of a folder."""
    from engines.tasks.index import read_index
    from fpet_export.triton.config import Serving
    from fpet_export.triton.tasks import write_tasks

    folder: Path = options.artefact
    if options.name is not None:
        raise UsageError(
            "a folder of tasks becomes several models, called after the graphs and the tasks",
            where="--name",
            fix="leave it out, or name the tasks when they are written: NAME=RUN",
        )
    index = read_index(folder)
    usable.require_tasks(folder, index, index.names, options, reporter)
    on_gpu = not (options.cpu or (index.target == "cpu" and options.gpus is None))
    how = Serving(
        name="",
        backend="onnxruntime",
        on_gpu=on_gpu,
        instances=options.instances,
        gpus=options.gpus or (),
        queue_delay_us=options.queue_delay,
    )
    backbones, tasks = write_tasks(
        folder, index, how, options.out, version=options.model_version, force=options.force
    )
    kind = "GPU" if on_gpu else "CPU"
    for home in backbones:
        reporter.step("backbone", f"{home.name}, {options.instances} x {kind}")
    for task, home in zip(index.tasks, tasks, strict=True):
        backbone = backbones[task.structure].name
        reporter.step("task", f"{home.name}: {task.classes} classes, on {backbone}")
    return Outcome(
        document={
            "repository": str(options.out),
            "version": options.model_version,
            "kind": f"KIND_{kind}",
            "backbones": [home.name for home in backbones],
            "tasks": {task.name: home.name for task, home in zip(index.tasks, tasks, strict=True)},
        },
        result=str(options.out),
        next=_next(options.out),
    )


def _next(repository: Path) -> list[str]:
    """Return how to serve it, where the server is."""
    if shutil.which("tritonserver") is None:
        return []
    return [shlex.join(("tritonserver", "--model-repository", str(repository)))]


def _serving(options: argparse.Namespace, artefact: Path, manifest: Manifest) -> Serving:
    from fpet_export.triton.config import Serving
    from fpet_export.triton.repository import backend_of
    from fpet_export.triton.tasks import model_name

    name: str = options.name or model_name(artefact.stem)
    if not _NAME.fullmatch(name):
        raise InputError(
            f"{name!r} cannot name a model: letters, digits, '_' and '-' do",
            where=str(artefact),
            fix="choose one: --name NAME",
        )
    backend = backend_of(artefact, manifest)
    is_for_cpu = options.cpu or (manifest.target == "cpu" and options.gpus is None)
    return Serving(
        name=name,
        backend=backend,
        on_gpu=not is_for_cpu,
        instances=options.instances,
        gpus=options.gpus or (),
        queue_delay_us=options.queue_delay,
    )


def _numbers(text: str) -> tuple[int, ...]:
    parts = arguments.names(text)
    if not parts or not all(part.isdecimal() for part in parts) or len({*parts}) != len(parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of GPU numbers, such as 0,1")
    return tuple(int(part) for part in parts)
