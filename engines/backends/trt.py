"""TensorRT 10 to 11 and TensorRT-RTX: one code path, the target names the module.

Building with TensorRT-RTX runs here without a GPU. Opening and running a plan has been tried with
stand-ins for TensorRT and CUDA only: it has not run on hardware yet.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from engines import storage
from engines.backends._provenance import engine_manifest, read_source
from engines.backends._trt.builder import Plan, build_plan
from engines.backends._trt.engine import TrtEngine
from engines.backends._trt.inspector import kernels_of_plan
from engines.backends._trt.module import import_tensorrt
from engines.backends._trt.opening import open_engine
from engines.backends._trt.request import board_facts, request_for, require_device, require_release
from engines.backends._trt.timing_cache import Maker, read_timings, write_timings
from engines.backends._trt.trtexec import trtexec_line
from engines.commands import command
from engines.contract import BuildOptions, BuildRecord
from engines.cuda.device import open_cuda
from engines.errors import MissingDependencyError
from engines.fusion.report import FusionReport, report_on
from engines.machine.jetson import read_board
from engines.manifest import Runtime
from engines.targets import Target, _lookup

__all__ = ["TrtEngine", "build", "equivalent_command", "open_engine"]


def build(onnx: Path, target: Target, out: Path, *, options: BuildOptions) -> BuildRecord:
    """Write the plan for `onnx` to `out`; see `engines.contract.Backend`.

    TensorRT-RTX needs no GPU; TensorRT builds for the device it runs on.

    Raises:
        InputError: The graph is damaged, does not suit the target, or an extent is dynamic and its
            range is not known.
        EngineError: TensorRT refuses the graph or the build.
        UsageError: A compute capability is unknown, or named for a runtime that takes none, or the
            installed TensorRT or the GPU is not what the target stands for.
        TrustError: The timing cache is not what its side file describes.
        MissingDependencyError: The module, its libraries, or a GPU that it needs is absent.
    """
    source = read_source(onnx, target, allow_failed=options.allow_failed, any_form=options.any_form)
    request = request_for(source, target, options)
    try:
        trt = import_tensorrt(target.module, where=target.name)
    except MissingDependencyError as error:
        if target.device is None or target.device.board is None:
            raise
        raise MissingDependencyError(
            f"a plan for a Jetson is built on that Jetson, and here {error.what}",
            where=target.name,
            fix=f"{command('bundle', onnx, '--target', target.name)} packs what the board needs",
        ) from error
    require_release(trt.__version__, target)
    capabilities, board = request.compute_capabilities, None
    if not hasattr(trt, "ComputeCapability"):
        capabilities, board = (open_cuda().compute_capability(),), read_board(_lookup.modules())
        require_device(capabilities[0], board, target)
    maker = Maker(version=trt.__version__, compute_capability=", ".join(capabilities))
    cache = request.timing_cache
    timings = None if cache is None else read_timings(cache, maker)
    plan = build_plan(trt, onnx, request, timings)
    with storage.atomic_path(out) as temporary:
        temporary.write_bytes(memoryview(plan.content))
    if cache is not None and plan.timings is not None:
        write_timings(cache, plan.timings, maker)
    fusion = _fusion(trt, plan)
    line = trtexec_line(
        Path(onnx.name), Path(out.name), request, module=target.module, version=trt.__version__
    )
    runtime = Runtime(
        flavour=target.module,
        version=trt.__version__,
        compute_capabilities=capabilities,
        settings={
            **plan.settings,
            **board_facts(board),
            **(fusion.as_settings() if fusion else {}),
            "trtexec": line,
        },
    )
    manifest = engine_manifest(source, target, runtime=runtime, command=options.command)
    if request.batches is not None:
        low, _, high = request.batches
        manifest = dataclasses.replace(manifest, batch_range=(low, high))
    return BuildRecord(manifest=manifest, fusion=fusion)


def equivalent_command(onnx: Path, target: Target, out: Path, *, options: BuildOptions) -> str:
    """Return the line for NVIDIA's own tool that builds what `build` would, without building."""
    source = read_source(onnx, target, allow_failed=options.allow_failed, any_form=options.any_form)
    request = request_for(source, target, options)
    version = None if target.release is None else target.release.versions[0]
    return trtexec_line(onnx, out, request, module=target.module, version=version)


def _fusion(trt: Any, plan: Plan) -> FusionReport | None:
    """Report on the kernels that the log listed, else on those of the inspector, else not at all.

    The inspector needs the engine on a GPU, which TensorRT has at hand after a build.
    """
    if plan.kernels:
        return report_on(plan.kernels, "verbose log")
    try:
        open_cuda()
    except MissingDependencyError:
        return None
    kernels = kernels_of_plan(trt, plan.content)
    return report_on(kernels, "engine inspector") if kernels else None
