"""PyTorch ahead of time: a graph compiled by AOTInductor into a package that opens without code.

The module that is compiled is made from the ONNX graph, operator by operator, not from the module
that the graph was exported from; see docs/adr/0014. So an engine's weights, types and provenance
are those of its graph, as with every other target, and a typed graph needs nothing more.

A package holds machine code: of the host, for the instruction sets of this CPU, and of the GPU, for
its generation. It is bound to the version of PyTorch, whose operators it calls. All of that stands
in its manifest, without which it is not opened.
"""

from __future__ import annotations

import dataclasses
import logging
import tempfile
from pathlib import Path
from typing import Any

import torch

from engines import commands, registry, storage
from engines.backends._aoti.builder import compile_graph
from engines.backends._aoti.cache import inductor_cache
from engines.backends._aoti.engine import TorchCudaEngine, TorchEngine, capability_here
from engines.backends._engine_base import EngineSpec
from engines.backends._provenance import engine_manifest, read_source
from engines.backends._requests import (
    built_by,
    refuse_gpu_options,
    refuse_zero_copy,
    thread_count,
)
from engines.contract import BuildOptions, BuildRecord, Engine, OpenOptions
from engines.errors import EngineError, InputError, MissingDependencyError, TrustError, UsageError
from engines.machine import processor
from engines.manifest import Manifest, Runtime, TensorSpec
from engines.targets import Target

logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # of an absent CUDA
_FLAVOUR = "torch"
_DEFAULT_LEVEL = 3


def build(onnx: Path, target: Target, out: Path, *, options: BuildOptions) -> BuildRecord:
    """Compile the graph into a package at `out`; see `engines.contract.Backend`.

    Raises:
        InputError: The graph is damaged or does not suit the target, or has an operator that is not
            known for PyTorch.
        UsageError: An option is for TensorRT.
        EngineError: PyTorch's compiler failed, or the build was cancelled.
        MissingDependencyError: There is no C++ compiler, no package onnx, or no GPU.
    """
    refuse_gpu_options(options, target, takes_level=True)
    source = read_source(onnx, target, allow_failed=options.allow_failed, any_form=options.any_form)
    registry.import_or_explain("onnx")  # the compiler reads the graph with it
    device = _device_of(target.name)
    _require_device(device, where=target.name)
    level = _DEFAULT_LEVEL if options.optimization_level is None else options.optimization_level
    batches = None if source.manifest is None else source.manifest.batch_range
    _require_known_extents(onnx, source.header.inputs, batches)
    with storage.atomic_path(out) as temporary:
        compiled = compile_graph(
            onnx,
            temporary,
            device=device,
            inputs=source.header.inputs,
            batches=batches,
            level=level,
            options=options,
        )
    runtime = Runtime(
        flavour=_FLAVOUR,
        version=str(torch.__version__),
        compute_capabilities=(compiled.compute_capability,) if compiled.compute_capability else (),
        settings={
            "provider": device,
            "cpu": processor.processor_name(),
            "instruction_sets": " ".join(processor.instruction_sets()),
            **({"gpu": compiled.gpu} if compiled.gpu else {}),
            "fused_attentions": str(compiled.attentions),
            "linear_layers": str(compiled.linears),
            "optimization_level": str(level),
            **compiled.settings,
        },
    )
    manifest = engine_manifest(source, target, runtime=runtime, command=options.command)
    return BuildRecord(manifest=dataclasses.replace(manifest, batch_range=batches))


def open_engine(artefact: Path, manifest: Manifest | None, *, options: OpenOptions) -> Engine:
    """Open a package; its side-car is compared with this machine before a byte of it is loaded.

    Raises:
        TrustError: It has no side-car, or was built by another PyTorch, for another CPU or another
            GPU generation.
        UsageError: An option is for other runtimes.
        MissingDependencyError: The GPU is absent.
        EngineError: PyTorch cannot open it.
    """
    if manifest is None or manifest.kind != "engine":
        raise TrustError(
            "a package is executable code, and the manifest does not say what made it",
            where=str(artefact),
            fix=commands.rebuild(artefact, manifest),
        )
    runtime = built_by(artefact, manifest, _FLAVOUR)
    device = runtime.settings.get("provider", "cpu")
    if options.rewrites not in (None, "all"):
        raise UsageError(
            f"a package runs as PyTorch compiled it, not with rewrites={options.rewrites!r}",
            where=str(artefact),
            fix="leave rewrites out, or open its graph instead",
        )
    refuse_zero_copy(options, str(artefact))
    if options.provider not in (None, device):
        raise UsageError(
            f"the engine was built for the provider {device}, not {options.provider}",
            where=str(artefact),
            fix="leave the provider out, or build the graph for another target",
        )
    _require_same(artefact, manifest, runtime)
    if device == "cuda":
        _require_device(device, where=str(artefact))
        here = capability_here()
        if here not in runtime.compute_capabilities:
            raise _foreign(
                artefact,
                manifest,
                f"compute capability {', '.join(runtime.compute_capabilities)} "
                f"({runtime.settings.get('gpu', 'GPU unknown')})",
                f"{here} ({torch.cuda.get_device_name()})",
            )
    spec = EngineSpec(
        name=options.name or artefact.stem,
        inputs=manifest.inputs,
        outputs=manifest.outputs,
        batch_range=manifest.batch_range,
        facts={
            "runtime": _FLAVOUR,
            "version": str(torch.__version__),
            "fused_attentions": runtime.settings.get("fused_attentions", ""),
        },
    )
    package = _load(artefact, alone=device == "cuda")
    if device == "cuda":
        return TorchCudaEngine(spec, package, cuda_graph=options.cuda_graph)
    return TorchEngine(spec, package, threads=thread_count(options.threads))


def _load(artefact: Path, *, alone: bool) -> Any:
    """Load a package.

    Args:
        artefact: The package.
        alone: Whether one thread at a time calls it: a CUDA graph needs it without locks. On a CPU
            threads run side by side, and the package needs them.

    PyTorch would try the CPU's instructions with a program that it compiles, which takes seconds
    and a compiler. What the package needs was compared with this CPU before.
    """
    try:
        with (
            tempfile.TemporaryDirectory(prefix="fpet-export-") as folder,
            inductor_cache(Path(folder)),
            torch._inductor.config.patch({"cpp.vec_isa_ok": True}),
        ):
            return torch._inductor.aoti_load_package(str(artefact), run_single_threaded=alone)
    except (RuntimeError, ValueError, OSError) as error:
        lines = str(error).strip().splitlines()
        raise EngineError(
            f"PyTorch cannot open the package: {lines[0] if lines else type(error).__name__}",
            where=str(artefact),
            fix="build it again from its graph",
        ) from error


def _require_same(artefact: Path, manifest: Manifest, runtime: Runtime) -> None:
    if runtime.version != torch.__version__:
        raise _foreign(artefact, manifest, f"PyTorch {runtime.version}", torch.__version__)
    other = processor.difference_from(
        runtime.machine, runtime.settings.get("instruction_sets", "").split()
    )
    if other:
        raise TrustError(
            f"the engine was built for another CPU: {other}",
            where=str(artefact),
            fix=commands.rebuild(artefact, manifest),
        )


def _require_known_extents(
    graph: Path, inputs: tuple[TensorSpec, ...], batches: tuple[int, int] | None
) -> None:
    """Refuse a graph with another dynamic extent than a batch whose range is known."""
    batch = inputs[0].shape[0] if inputs and inputs[0].shape else 1
    dynamic = {n: spec.name for spec in inputs for n in spec.shape if isinstance(n, str)}
    if batches is None and batch in dynamic:
        raise InputError(
            f"the extent {batch!r} of {dynamic[batch]!r} is dynamic, and nothing says its range",
            where=str(graph),
            fix="export it with --batch dyn:MIN-MAX, or with a static batch",
        )
    others = [f"{n!r} of {name!r}" for n, name in dynamic.items() if n != batch]
    if others:
        raise InputError(
            f"the extent {others[0]} is dynamic; a package of PyTorch may have a dynamic batch, "
            "nothing else",
            where=str(graph),
            fix="build it for the target cpu, cuda or openvino",
        )


def _foreign(artefact: Path, manifest: Manifest, built: str, here: str) -> TrustError:
    return TrustError(
        f"the engine was built for {built}, this is {here}",
        where=str(artefact),
        fix=commands.rebuild(artefact, manifest),
    )


def _device_of(target: str) -> str:
    return "cuda" if target == "torch-cuda" else "cpu"


def _require_device(device: str, *, where: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        raise MissingDependencyError(
            f"PyTorch {torch.__version__} sees no CUDA device",
            where=where,
            fix="run it on a machine with an NVIDIA GPU and a CUDA build of torch",
        )
