"""ONNX Runtime on the CPU, and on an NVIDIA GPU where onnxruntime-gpu is installed.

Building means: let ONNX Runtime rewrite the graph once and keep the result. The rewritten graph
holds layouts of this very CPU and operators of this very version, so both are recorded, and a
cache that meets others is refused.

Not run on hardware yet: the GPU provider.
"""

from __future__ import annotations

import contextlib
import io
import os
import platform
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read once, while the library loads

import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as _native

from engines import processor, storage
from engines.backends._provenance import engine_manifest, read_source
from engines.backends._requests import built_by, refuse_gpu_options, report, thread_count
from engines.engine import Array, BuildOptions, Built, OpenOptions
from engines.engine_base import EngineBase
from engines.errors import EngineError, InputError, MissingDependencyError, TrustError, UsageError
from engines.feeds import resolved
from engines.manifest import Manifest, Runtime, TensorSpec
from engines.onnx_header import OnnxHeader, parse_onnx_header, read_onnx_header
from engines.targets import Target

if hasattr(onnxruntime, "disable_telemetry_events"):
    onnxruntime.disable_telemetry_events()
onnxruntime.set_default_logger_severity(4)  # errors arrive as exceptions; stderr is the user's

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_QUIET = 4
_EXTERNAL_WEIGHTS = "session.optimized_model_external_initializers_file_name"
_ORT_ERRORS: tuple[type[Exception], ...] = (
    RuntimeError,
    ValueError,
    *(
        error
        for error in vars(_native).values()
        if isinstance(error, type) and issubclass(error, Exception)
    ),
)
_NUMPY_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(bfloat16)": "bfloat16",
    "tensor(double)": "float64",
}


def build(onnx: Path, target: Target, out: Path, *, options: BuildOptions) -> Built:
    """Write ONNX Runtime's optimised graph to `out`; see `engines.engine.Backend`.

    The result is bound to this version of ONNX Runtime and to this CPU's instruction sets.

    Raises:
        InputError: The graph is damaged or does not suit the target, its external weights are not
            where they belong, or the result cannot be written.
        UsageError: An option is for TensorRT.
        EngineError: ONNX Runtime refuses the graph.
        MissingDependencyError: The target is a GPU that is not there.
    """
    refuse_gpu_options(options, target)
    source = read_source(onnx, target)
    provider = "cuda" if target.name == "cuda" else "cpu"
    companions = (f"{out.name}.data",) if source.header.external_files else ()
    report(options, "optimise", 0)
    with storage.atomic_path(out) as temporary:
        settings = _session_options(threads=None)
        settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        settings.optimized_model_filepath = str(temporary)
        for weights_file in companions:
            settings.add_session_config_entry(_EXTERNAL_WEIGHTS, weights_file)
        try:
            _session(str(onnx), settings, provider, where=str(onnx), header=source.header)
        except EngineError as error:
            if "Protobuf serialization failed" not in error.what:
                raise
            raise InputError(
                f"cannot write {out.name}: the disk is full, or a file may not be so large",
                where=str(out.parent),
                fix="free space or choose a folder that you may write",
            ) from error
    report(options, "optimise", 1)
    runtime = Runtime(
        flavour="onnxruntime",
        version=onnxruntime.__version__,
        settings={
            "provider": provider,
            "graph_optimization": "all",
            "cpu": processor.processor_name(),
            "instruction_sets": " ".join(processor.instruction_sets()),
        },
    )
    manifest = engine_manifest(
        source, target, runtime=runtime, command=options.command, companions=companions
    )
    return Built(manifest=manifest)


def open_engine(artefact: Path, manifest: Manifest | None, *, options: OpenOptions) -> OrtEngine:
    """Open a graph, or a cache that `build` wrote; see `engines.engine.Backend`.

    Raises:
        InputError: The graph is damaged or its external weights are not where they belong.
        TrustError: The cache is of another version, CPU or provider.
        UsageError: A cache cannot be opened literally.
        EngineError: ONNX Runtime refuses the graph.
        MissingDependencyError: The GPU provider was asked for and is not there.
    """
    header = read_onnx_header(artefact)
    provider: str = options.provider or "cpu"
    is_cache = manifest is not None and manifest.kind == "engine"
    if manifest is not None and manifest.kind == "engine":
        provider = _check_cache(artefact, manifest, options)
    session = _session(
        str(artefact),
        _open_settings(options, is_cache=is_cache),
        provider,
        where=str(artefact),
        header=header,
    )
    return OrtEngine(
        session,
        name=options.name or artefact.stem,
        provider=provider,
        header=header,
        batch_range=manifest.batch_range if manifest else None,
        rewrites=_rewrites(options, is_cache=is_cache),
    )


def open_bytes(model: bytes, *, name: str, options: OpenOptions | None = None) -> OrtEngine:
    """Open a graph that is in memory, such as a copy with additional outputs.

    Args:
        model: The serialized ModelProto, with its weights inside.
        name: For tables and messages.
        options: See OpenOptions.

    Raises:
        InputError: It is not a whole ONNX model, or its weights lie in other files.
        EngineError: ONNX Runtime refuses the graph.
        MissingDependencyError: The GPU provider was asked for and is not there.
    """
    options = options or OpenOptions()
    header = parse_onnx_header(model, where=name)
    if header.external_files:
        raise InputError(
            f"a graph in memory cannot have external weights: {', '.join(header.external_files)}",
            where=name,
            fix="put the weights into the graph, or open it from its file",
        )
    provider = options.provider or "cpu"
    settings = _open_settings(options, is_cache=False)
    return OrtEngine(
        _session(model, settings, provider, where=name, header=header),
        name=options.name or name,
        provider=provider,
        header=header,
        batch_range=None,
        rewrites=_rewrites(options, is_cache=False),
    )


class OrtEngine(EngineBase):
    """An ONNX Runtime session; implements `engines.engine.Engine`."""

    def __init__(
        self,
        session: Any,
        *,
        name: str,
        provider: str,
        header: OnnxHeader,
        batch_range: tuple[int, int] | None,
        rewrites: str,
    ) -> None:
        super().__init__(
            name=name,
            inputs=tuple(_spec(node) for node in session.get_inputs()),
            outputs=tuple(_spec(node) for node in session.get_outputs()),
            batch_range=batch_range,
        )
        self._session = session
        self._provider = provider
        self._rewrites = rewrites
        self._threads: int = session.get_session_options().intra_op_num_threads
        self._opset = header.opset

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run once and return the outputs by name; see `engines.engine.Engine`."""
        checked, _ = self._check(feeds)
        names = [spec.name for spec in self.outputs]
        try:
            values = self._session.run(names, checked)
        except _ORT_ERRORS as error:
            raise self._run_error(error) from error
        return dict(zip(names, values, strict=True))

    def bind(self, feeds: Mapping[str, Array]) -> Callable[[], None]:
        """Put `feeds` and the outputs' memory in place; see `engines.engine.Engine`."""
        checked, extents = self._check(feeds)
        binding = self._session.io_binding()
        device = self._provider
        kept = []  # the binding holds addresses only: the arrays must live as long as it does
        try:
            for name, value in checked.items():
                placed = onnxruntime.OrtValue.ortvalue_from_numpy(value, device, 0)
                kept.append((value, placed))
                binding.bind_ortvalue_input(name, placed)
            for spec in self.outputs:
                shape = resolved(spec, extents)
                if shape is None:
                    binding.bind_output(spec.name, device)
                    continue
                room = onnxruntime.OrtValue.ortvalue_from_shape_and_type(
                    list(shape), np.dtype(spec.dtype), device, 0
                )
                binding.bind_ortvalue_output(spec.name, room)
        except _ORT_ERRORS as error:
            raise self._run_error(error) from error

        def run_once() -> None:
            assert kept is not None
            self._require_open()
            try:
                self._session.run_with_iobinding(binding)
                if device != "cpu":
                    binding.synchronize_outputs()
            except _ORT_ERRORS as error:
                raise self._run_error(error) from error

        return run_once

    def describe(self) -> dict[str, str]:
        """Return what a measurement must record about this engine."""
        facts = {
            "runtime": "onnxruntime",
            "version": onnxruntime.__version__,
            "provider": self._provider,
            "threads": str(self._threads),
            "graph_rewrites": self._rewrites,
            "opset": str(self._opset),
        }
        if self._provider == "cuda":
            return {**facts, "device": "cuda:0", "tf32": "off"}
        return {**facts, "device": processor.processor_name()}

    def _free(self) -> None:
        self._session = None

    def _run_error(self, error: BaseException) -> EngineError:
        return EngineError(
            f"ONNX Runtime failed while running: {_one_line(error)}",
            where=self.name,
            fix="the message names the operator; open with literal=True to rule out a rewrite",
        )


def _session_options(threads: int | None) -> Any:
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = thread_count(threads)
    settings.inter_op_num_threads = 1
    settings.log_severity_level = _QUIET
    return settings


def _open_settings(options: OpenOptions, *, is_cache: bool) -> Any:
    settings = _session_options(options.threads)
    level = onnxruntime.GraphOptimizationLevel
    as_written = options.literal or is_cache
    settings.graph_optimization_level = (
        level.ORT_DISABLE_ALL if as_written else level.ORT_ENABLE_ALL
    )
    return settings


def _rewrites(options: OpenOptions, *, is_cache: bool) -> str:
    if is_cache:
        return "done at build"
    return "none" if options.literal else "all"


def _check_cache(artefact: Path, manifest: Manifest, options: OpenOptions) -> str:
    """Refuse a cache that this process cannot run as it was built; return its provider."""
    runtime = built_by(artefact, manifest, "onnxruntime")
    graph = manifest.parents[0].file if manifest.parents else "GRAPH.onnx"
    rebuild = f"build it here: fpet-export build {graph} --target {manifest.target} --force"
    if runtime.version != onnxruntime.__version__:
        raise TrustError(
            f"the engine was built by ONNX Runtime {runtime.version}, "
            f"this is {onnxruntime.__version__}",
            where=str(artefact),
            fix=rebuild,
        )
    here = (platform.machine(), *processor.instruction_sets())
    built = (runtime.machine, *runtime.settings.get("instruction_sets", "").split())
    if sorted(here) != sorted(built):
        lacks, adds = sorted(set(built) - set(here)), sorted(set(here) - set(built))
        raise TrustError(
            "the engine was built for another CPU: "
            f"this one lacks {' '.join(lacks) or 'nothing'} and adds {' '.join(adds) or 'nothing'}",
            where=str(artefact),
            fix=rebuild,
        )
    if options.literal:
        raise UsageError(
            "an optimised graph cannot be opened literally: it is rewritten already",
            where=str(artefact),
            fix=f"open {graph} literally",
        )
    provider = runtime.settings.get("provider", "cpu")
    if options.provider not in (None, provider):
        raise UsageError(
            f"the engine was built for the provider {provider}, not {options.provider}",
            where=str(artefact),
            fix=f"build it again for {options.provider}, or open {graph}",
        )
    return provider


def _session(
    model: str | bytes, settings: Any, provider: str, *, where: str, header: OnnxHeader
) -> Any:
    wanted = _PROVIDERS[provider]
    _check_provider(wanted, where)
    providers: list[Any] = [_PROVIDERS["cpu"]]
    if provider == "cuda":
        _load_cuda_libraries()
        providers.insert(0, (wanted, {"use_tf32": "0"}))  # matching compares float32 scores
    try:
        session = onnxruntime.InferenceSession(
            model,
            settings,
            providers=providers,
            enable_fallback=0,  # it would print to stdout and try again on the CPU
        )
    except _ORT_ERRORS as error:
        raise _open_error(error, where, header) from error
    if wanted not in session.get_providers():  # it falls back to the CPU without an error
        raise MissingDependencyError(
            f"ONNX Runtime could not start {wanted} and fell back to "
            f"{', '.join(session.get_providers())}",
            where=where,
            fix="check the driver with nvidia-smi, and that CUDA and cuDNN match onnxruntime-gpu",
        )
    return session


def _load_cuda_libraries() -> None:
    """Find CUDA and cuDNN where pip put them; what cannot be found shows when a session starts."""
    if hasattr(onnxruntime, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find
            onnxruntime.preload_dlls()


def _check_provider(wanted: str, where: str) -> None:
    offered = onnxruntime.get_available_providers()
    if wanted not in offered:
        raise MissingDependencyError(
            f"this ONNX Runtime has no {wanted}, it has {', '.join(offered)}",
            where=where,
            fix="pip uninstall onnxruntime; pip install 'fpet-export[gpu]'",
        )


def _open_error(error: BaseException, where: str, header: OnnxHeader) -> EngineError:
    text = _one_line(error)
    version = onnxruntime.__version__
    newest = re.search(r"official support for domain \S+ is till opset (\d+)", text)
    if newest:
        return EngineError(
            f"the graph has opset {header.opset}, ONNX Runtime {version} reads up to {newest[1]}",
            where=where,
            fix="export with --opset 20, or: pip install -U onnxruntime",
        )
    return EngineError(
        f"ONNX Runtime {version} refuses the graph: {text}",
        where=where,
        fix="the message names the node; check the graph with onnx.checker, or export it again",
    )


def _one_line(error: BaseException) -> str:
    """Return the runtime's message without line breaks, its error codes and its source lines."""
    text = " ".join(str(error).split())
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    return re.sub(r"/\S*onnxruntime_src\S+:\d+ .*?\) (?=[A-Z\[])", "", text)


def _spec(node: Any) -> TensorSpec:
    shape = tuple(
        extent if isinstance(extent, int | str) else f"unnamed_{axis}"
        for axis, extent in enumerate(node.shape)
    )
    inner = node.type.removeprefix("tensor(").removesuffix(")")
    return TensorSpec(name=node.name, shape=shape, dtype=_NUMPY_DTYPES.get(node.type, inner))
