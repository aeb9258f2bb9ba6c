"""ONNX Runtime on the CPU, and on an NVIDIA GPU where onnxruntime-gpu is installed.

Building means: let ONNX Runtime rewrite the graph once and keep the result. The rewritten graph
holds layouts of this very CPU and operators of this very version, so both are recorded, and a
cache that meets others is refused.

A quantized graph is special twice. Rewritten, its products are integers, and a CPU without VNNI
clips them unless the weights are made unsigned first (`_saturation.py`); that is slower, so it is
asked for only where a trial shows that it is needed. And FP8 pairs cannot be rewritten at all:
ONNX Runtime moves them past a Transpose, which has no FP8 kernel. They run as they are written.

Not run on hardware yet: the GPU provider.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
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
from engines.backends._saturation import FloatArray, saturates
from engines.engine import Array, BuildOptions, Built, OpenOptions, Rewrites
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
_KEEP_QDQ = "session.disable_quant_qdq"
_WITHOUT = "optimization.disable_specified_optimizers"
_LOSES_A_ROUNDING = "MatMulAddFusion"  # a half-precision product is rounded before its bias
_UNSIGNED_WEIGHTS = "session.x64quantprecision"
_EXTERNAL_WEIGHTS = "session.optimized_model_external_initializers_file_name"
_PRODUCTS = "int8_products"
_SIGNED = "u8 x s8"
_UNSIGNED = "u8 x u8, because this CPU clips sums of u8 x s8"
_NO_PRODUCTS = "none: Q/DQ as written"
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
            where they belong, it is FP8, or the result cannot be written.
        UsageError: An option is for TensorRT.
        EngineError: ONNX Runtime refuses the graph.
        MissingDependencyError: The target is a GPU that is not there.
    """
    refuse_gpu_options(options, target)
    source = read_source(onnx, target)
    _refuse_bfloat16(source.header, str(onnx))
    if source.header.is_fp8:
        raise InputError(
            "the graph is FP8, which ONNX Runtime can only run as it is written",
            where=str(onnx),
            fix="build it for a TensorRT target, or quantize the float32 graph to int8",
        )
    provider = "cuda" if target.name == "cuda" else "cpu"
    products = _int8_products(source.header, provider, "all")
    companions = (f"{out.name}.data",) if source.header.external_files else ()
    report(options, "optimise", 0)
    with storage.atomic_path(out) as temporary:
        settings = _session_options(None, rewrites="all", products=products)
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
            **_as_fact(products),
        },
    )
    manifest = engine_manifest(
        source, target, runtime=runtime, command=options.command, companions=companions
    )
    return Built(manifest=manifest)


def open_engine(artefact: Path, manifest: Manifest | None, *, options: OpenOptions) -> OrtEngine:
    """Open a graph, or a cache that `build` wrote; see `engines.engine.Backend`.

    Raises:
        InputError: The graph is damaged, its external weights are not where they belong, or it
            takes or gives bfloat16.
        TrustError: The cache is of another version, CPU or provider.
        UsageError: A cache is to be rewritten otherwise, or an FP8 graph at all.
        EngineError: ONNX Runtime refuses the graph.
        MissingDependencyError: The GPU provider was asked for and is not there.
    """
    header = read_onnx_header(artefact)
    if manifest is None or manifest.kind != "engine":
        return _open(artefact, header, manifest, options, name=artefact.stem)
    provider = _check_cache(artefact, manifest, options)
    assert manifest.runtime is not None
    return OrtEngine(
        _session(
            str(artefact),
            _session_options(options.threads, rewrites="none", products=None),
            provider,
            where=str(artefact),
            header=header,
        ),
        name=options.name or artefact.stem,
        provider=provider,
        header=header,
        batch_range=manifest.batch_range,
        rewrites="done at build",
        products=manifest.runtime.settings.get(_PRODUCTS),
    )


def open_bytes(model: bytes, *, name: str, options: OpenOptions | None = None) -> OrtEngine:
    """Open a graph that is in memory, such as a copy with additional outputs.

    Args:
        model: The serialized ModelProto, with its weights inside.
        name: For tables and messages.
        options: See OpenOptions.

    Raises:
        InputError: It is not a whole ONNX model, its weights lie in other files, or it takes or
            gives bfloat16.
        UsageError: An FP8 graph is to be rewritten.
        EngineError: ONNX Runtime refuses the graph.
        MissingDependencyError: The GPU provider was asked for and is not there.
    """
    header = parse_onnx_header(model, where=name)
    if header.external_files:
        raise InputError(
            f"a graph in memory cannot have external weights: {', '.join(header.external_files)}",
            where=name,
            fix="put the weights into the graph, or open it from its file",
        )
    return _open(model, header, None, options or OpenOptions(), name=name)


def _open(
    model: Path | bytes,
    header: OnnxHeader,
    manifest: Manifest | None,
    options: OpenOptions,
    *,
    name: str,
) -> OrtEngine:
    where = str(model) if isinstance(model, Path) else name
    _refuse_bfloat16(header, where)
    provider = options.provider or "cpu"
    rewrites = _rewrites(options, header, where)
    products = _int8_products(header, provider, rewrites)
    return OrtEngine(
        _session(
            str(model) if isinstance(model, Path) else model,
            _session_options(options.threads, rewrites=rewrites, products=products),
            provider,
            where=where,
            header=header,
        ),
        name=options.name or name,
        provider=provider,
        header=header,
        batch_range=manifest.batch_range if manifest else None,
        rewrites=rewrites,
        products=products,
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
        products: str | None,
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
        self._products = products
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
            **_as_fact(self._products),
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
            fix="the message names the operator; open with rewrites='none' to rule one out",
        )


@functools.cache
def saturates_here() -> bool:
    """Say whether ONNX Runtime's products of unsigned and signed bytes are clipped on this CPU."""
    return saturates(_run_trial)


def _run_trial(model: bytes, x: FloatArray) -> FloatArray:
    settings = _session_options(1, rewrites="all", products=None)
    session = onnxruntime.InferenceSession(model, settings, providers=[_PROVIDERS["cpu"]])
    y: FloatArray = session.run(None, {"x": x})[0]
    return y


def _rewrites(options: OpenOptions, header: OnnxHeader, where: str) -> Rewrites:
    if options.rewrites == "all" and header.is_fp8:
        raise UsageError(
            "ONNX Runtime cannot rewrite an FP8 graph, only run it as it is written",
            where=where,
            fix="leave rewrites out or take 'keep-qdq'; to run it fast, build it for TensorRT",
        )
    return options.rewrites or ("keep-qdq" if header.is_fp8 else "all")


def _refuse_bfloat16(header: OnnxHeader, where: str) -> None:
    for spec in (*header.inputs, *header.outputs):
        if spec.dtype == "bfloat16":
            raise InputError(
                f"{spec.name!r} is bfloat16, which numpy cannot hand to ONNX Runtime",
                where=where,
                fix="quantize the float32 graph with --io fp32, or build it for TensorRT",
            )


def _int8_products(header: OnnxHeader, provider: str, rewrites: Rewrites) -> str | None:
    """Say which bytes an INT8 graph's products multiply; None for a graph that has none."""
    if not header.is_quantized or header.is_fp8 or provider != "cpu":
        return None
    if rewrites != "all":
        return _NO_PRODUCTS
    return _UNSIGNED if saturates_here() else _SIGNED


def _as_fact(products: str | None) -> dict[str, str]:
    return {} if products is None else {_PRODUCTS: products}


def _session_options(threads: int | None, *, rewrites: Rewrites, products: str | None) -> Any:
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = thread_count(threads)
    settings.inter_op_num_threads = 1
    settings.log_severity_level = _QUIET
    level = onnxruntime.GraphOptimizationLevel
    settings.graph_optimization_level = {
        "all": level.ORT_ENABLE_ALL,
        "keep-qdq": level.ORT_ENABLE_BASIC,
        "none": level.ORT_DISABLE_ALL,
    }[rewrites]
    if rewrites == "keep-qdq":
        settings.add_session_config_entry(_KEEP_QDQ, "1")
        settings.add_session_config_entry(_WITHOUT, _LOSES_A_ROUNDING)
    if products == _UNSIGNED:
        settings.add_session_config_entry(_UNSIGNED_WEIGHTS, "1")
    return settings


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
    other = processor.difference_from(
        runtime.machine, runtime.settings.get("instruction_sets", "").split()
    )
    if other:
        raise TrustError(
            f"the engine was built for another CPU: {other}",
            where=str(artefact),
            fix=rebuild,
        )
    if options.rewrites not in (None, "all"):
        raise UsageError(
            f"an optimised graph cannot be opened with rewrites={options.rewrites!r}: "
            "it is rewritten already",
            where=str(artefact),
            fix=f"open {graph}",
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
