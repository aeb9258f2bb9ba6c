"""`fpet-export triton X -o REPO`: a model repository that Triton Inference Server loads."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from engines.errors import InputError, UsageError
from fpet_export.console import Console
from fpet_export.verbs import Outcome, _arguments, _trust

if TYPE_CHECKING:
    from engines.manifest import Manifest
    from fpet_export.triton_config import Serving

HELP = "write a model repository for Triton Inference Server"
DESCRIPTION = """\
Write REPO/NAME/config.pbtxt and REPO/NAME/1/model.plan or model.onnx, with the class names and the
manifest. A plan of TensorRT is served by the tensorrt backend, a graph or an engine of ONNX Runtime
by the onnxruntime backend. A dynamic batch is batched by the server; a static one is one request.

A plan loads only into the TensorRT that built it; docs/triton.md says which images have which.

  fpet-export triton out/model.fp16.tensorrt.plan -o models --instances 2 --gpus 0
"""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("artefact", type=Path, metavar="X", help="a graph or an engine")
    _arguments.add_output(parser, what="the model repository", required=True)
    parser.add_argument("--name", help="of the model (default: X without ending, '.' as '_')")
    parser.add_argument(
        "--instances",
        type=_arguments.positive,
        default=1,
        metavar="N",
        help="how many run at once, on each GPU or on the CPU (default: 1)",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--gpus", type=_numbers, metavar="0,1", help="GPUs to use (default: all that it sees)"
    )
    where.add_argument("--cpu", action="store_true", help="run on the CPU")
    parser.add_argument(
        "--queue-delay",
        type=_arguments.positive,
        metavar="US",
        help="microseconds that a request may wait for others (default: none)",
    )
    parser.add_argument(
        "--model-version",
        type=_arguments.positive,
        default=1,
        metavar="N",
        help="version's folder; the server serves the newest (default: 1)",
    )


def run(options: argparse.Namespace, console: Console) -> Outcome:
    """Check the artefact, then write the repository."""
    from engines.manifest import Manifest
    from fpet_export import triton_config, triton_repository

    artefact: Path = options.artefact
    manifest = _trust.check(artefact, console)
    if not isinstance(manifest, Manifest):
        raise UsageError(
            "this is a bundle", where=str(artefact), fix="give the graph or the engine itself"
        )
    serving = _serving(options, artefact, manifest)
    largest = triton_config.max_batch_size(manifest)
    if options.queue_delay is not None and largest <= 1:
        raise UsageError(
            "there are no batches to wait for: the batch is static, or 1 at most",
            where="--queue-delay",
            fix="leave it out, or export with --batch dyn:1-8",
        )
    if manifest.weights == "random":
        console.step("weights", "random, good for speed only", passed=None)
    home = triton_repository.write_model(
        artefact, manifest, serving, options.out, version=options.model_version, force=options.force
    )
    batching = f"batches up to {largest}" if largest else "one batch a request"
    kind = "GPU" if serving.on_gpu else "CPU"
    console.step(
        "triton", f"{serving.name}: {serving.backend}, {batching}, {serving.instances} x {kind}"
    )
    if manifest.runtime is not None:
        runtime = manifest.runtime
        console.step(
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
        },
        result=str(home),
        next=[f"tritonserver --model-repository {options.out}"],
    )


def _serving(options: argparse.Namespace, artefact: Path, manifest: Manifest) -> Serving:
    from fpet_export.triton_config import Serving
    from fpet_export.triton_repository import backend_of

    name: str = options.name or artefact.stem.replace(".", "_")
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
    parts = _arguments.names(text)
    if not parts or not all(part.isdecimal() for part in parts) or len({*parts}) != len(parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of GPU numbers, such as 0,1")
    return tuple(int(part) for part in parts)
