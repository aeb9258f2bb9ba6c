"""ONNX Runtime on the CPU, and on an NVIDIA GPU where onnxruntime-gpu is installed.

A graph runs there on the provider for CUDA or on that for TensorRT, which compiles it anew at every
opening and keeps nothing.

Building means: let ONNX Runtime rewrite the graph once and keep the result. The rewritten graph
holds layouts of this very CPU and operators of this very version, so both are recorded, and a
cache that meets others is refused.

A quantized graph is special twice. Rewritten, its products are integers, and a CPU without VNNI
clips them unless the weights are made unsigned first (`_ort/saturation.py`). That is slower, so it
is asked for only where a trial shows that it is needed. And FP8 pairs cannot be rewritten at all:
ONNX Runtime moves them past a Transpose, which has no FP8 kernel. They run as they are written.

For its CUDA provider a graph gets ONNX Runtime's own operators first (`_ort/operators.py`), and
runs are recorded as CUDA graphs (`_ort/cuda_engine.py`). Not run on hardware yet: the TensorRT
provider.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import tempfile
from pathlib import Path
from typing import Any

from engines import commands, storage
from engines.backends._engine_base import EngineSpec
from engines.backends._ort.cuda_provider import open_on_cuda
from engines.backends._ort.engine import (
    PRODUCTS,
    OrtEngine,
    of_session,
    products_fact,
    session_facts,
)
from engines.backends._ort.operators import count_operators, with_contrib_operators
from engines.backends._ort.saturation import FloatArray, probe, saturates
from engines.backends._ort.session import Model, onnxruntime, open_session
from engines.backends._provenance import engine_manifest, read_source
from engines.backends._requests import (
    built_by,
    refuse_gpu_options,
    refuse_zero_copy,
    report,
    thread_count,
)
from engines.contract import BuildOptions, BuildRecord, Engine, OpenOptions, Provider, Rewrites
from engines.errors import EngineError, InputError, TrustError, UsageError
from engines.machine import processor
from engines.manifest import Manifest, Runtime
from engines.onnx_header import OnnxHeader, parse_onnx_header, read_onnx_header
from engines.targets import Target

_QUIET = 4
_KEEP_QDQ = "session.disable_quant_qdq"
_WITHOUT = "optimization.disable_specified_optimizers"
_LOSES_A_ROUNDING = "MatMulAddFusion"  # a half-precision product is rounded before its bias
_UNSIGNED_WEIGHTS = "session.x64quantprecision"
_EXTERNAL_WEIGHTS = "session.optimized_model_external_initializers_file_name"
_SIGNED = "u8 x s8"
_UNSIGNED = "u8 x u8, because this CPU clips sums of u8 x s8"
_NO_PRODUCTS = "none: Q/DQ as written"


def build(onnx: Path, target: Target, out: Path, *, options: BuildOptions) -> BuildRecord:
    """Write ONNX Runtime's optimised graph to `out`; see `engines.contract.Backend`.

    The result is bound to this version of ONNX Runtime and to this CPU's instruction sets.

    Raises:
        InputError: The graph is damaged or does not suit the target, its external weights are not
            where they belong, it is FP8, or the result cannot be written.
        UsageError: An option is for TensorRT.
        EngineError: ONNX Runtime refuses the graph.
        MissingDependencyError: The target is a GPU that is not there.
    """
    refuse_gpu_options(options, target)
    source = read_source(onnx, target, allow_failed=options.allow_failed, any_form=options.any_form)
    _refuse_bfloat16(source.header, str(onnx))
    if source.header.is_fp8:
        raise InputError(
            "the graph is FP8, which ONNX Runtime can only run as it is written",
            where=str(onnx),
            fix="build it for a TensorRT target, or quantize the float32 graph to int8",
        )
    provider: Provider = "cuda" if target.name == "cuda" else "cpu"
    products = _int8_products(source.header, provider, "all")
    companions = (f"{out.name}.data",) if source.header.external_files else ()
    settings = _session_options(None, rewrites="all", products=products)
    for weights_file in companions:
        settings.add_session_config_entry(_EXTERNAL_WEIGHTS, weights_file)
    report(options, "optimise", 0)
    model = Model(source=str(onnx), header=source.header, settings=settings, where=str(onnx))
    facts = _optimise(model, provider, out)
    report(options, "optimise", 1)
    runtime = Runtime(
        flavour="onnxruntime",
        version=onnxruntime.__version__,
        settings={
            "provider": provider,
            "graph_optimization": "all",
            "cpu": processor.processor_name(),
            "instruction_sets": " ".join(processor.instruction_sets()),
            **products_fact(products),
            **facts,
        },
    )
    manifest = engine_manifest(
        source, target, runtime=runtime, command=options.command, companions=companions
    )
    return BuildRecord(manifest=manifest)


def _optimise(model: Model, provider: Provider, out: Path) -> dict[str, str]:
    """Let ONNX Runtime write what it made of a graph file; return what was replaced before.

    Raises:
        InputError: It cannot be written.
        EngineError: ONNX Runtime refuses the graph.
        MissingDependencyError: The provider is not there.
    """
    assert isinstance(model.source, str)
    with contextlib.ExitStack() as stack:
        temporary = stack.enter_context(storage.atomic_path(out))
        model.settings.optimized_model_filepath = str(temporary)
        replaced = None
        if provider == "cuda":
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fpet-build-")))
            graph, replaced = with_contrib_operators(Path(model.source), folder)
            model = dataclasses.replace(model, source=str(graph))
        try:
            open_session(model, provider)
        except EngineError as error:
            if "Protobuf serialization failed" not in error.what:
                raise
            raise InputError(
                f"cannot write {out.name}: the disk is full, or it allows no file of that size",
                where=str(out.parent),
                fix="free space or choose a folder that you may write",
            ) from error
        return {} if replaced is None else {**replaced.facts(), **count_operators(temporary)}


def open_engine(artefact: Path, manifest: Manifest | None, *, options: OpenOptions) -> Engine:
    """Open a graph, or a cache that `build` wrote; see `engines.contract.Backend`.

    Raises:
        InputError: The graph is damaged, its external weights are not where they belong, or it
            takes or gives bfloat16.
        TrustError: The cache is of another version, CPU or provider.
        UsageError: A cache is to be rewritten otherwise, or an FP8 graph at all.
        EngineError: ONNX Runtime refuses the graph.
        MissingDependencyError: The GPU provider was asked for and is not there.
    """
    refuse_zero_copy(options, str(artefact))
    header = read_onnx_header(artefact)
    if manifest is None or manifest.kind != "engine":
        return _open(artefact, header, manifest, options, name=artefact.stem)
    provider = _check_cache(artefact, manifest, options)
    assert manifest.runtime is not None
    products = manifest.runtime.settings.get(PRODUCTS)
    model = Model(
        source=str(artefact),
        header=header,
        settings=_session_options(options.threads, rewrites="none", products=None),
        where=str(artefact),
    )
    spec = EngineSpec(
        name=options.name or artefact.stem,
        inputs=header.inputs,
        outputs=header.outputs,
        batch_range=manifest.batch_range,
        facts=session_facts(provider, rewrites="done at build", header=header, products=products),
    )
    return _start(model, spec, provider, options=options)


def open_bytes(model: bytes, *, name: str, options: OpenOptions | None = None) -> Engine:
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
    graph: Path | bytes,
    header: OnnxHeader,
    manifest: Manifest | None,
    options: OpenOptions,
    *,
    name: str,
) -> Engine:
    where = str(graph) if isinstance(graph, Path) else name
    _refuse_bfloat16(header, where)
    provider: Provider = options.provider or "cpu"
    rewrites = _rewrites(options, header, where)
    products = _int8_products(header, provider, rewrites)
    model = Model(
        source=str(graph) if isinstance(graph, Path) else graph,
        header=header,
        settings=_session_options(options.threads, rewrites=rewrites, products=products),
        where=where,
    )
    spec = EngineSpec(
        name=options.name or name,
        inputs=header.inputs,
        outputs=header.outputs,
        batch_range=manifest.batch_range if manifest else None,
        facts=session_facts(provider, rewrites=rewrites, header=header, products=products),
    )
    return _start(model, spec, provider, options=options)


def _start(model: Model, spec: EngineSpec, provider: Provider, *, options: OpenOptions) -> Engine:
    """Open a session; on CUDA, one that records its runs where shapes follow from the inputs."""
    if provider == "cuda" and _shapes_follow(model.header):
        return open_on_cuda(model, spec, options=options)
    session = open_session(model, provider)
    return OrtEngine(of_session(spec, session), session, provider=provider)


def _shapes_follow(header: OnnxHeader) -> bool:
    """Say whether every extent of an output is a number or an extent of an input."""
    known = {extent for spec in header.inputs for extent in spec.shape}
    extents = [extent for spec in header.outputs for extent in spec.shape]
    return all(isinstance(extent, int) or extent in known for extent in extents)


def try_provider(provider: Provider) -> None:
    """Open a tiny graph on a provider.

    Raises:
        MissingDependencyError: The provider does not start; the message says what it lacks.
        EngineError: It fails otherwise.
        UsageError: TF32 is forced on for "tensorrt".
    """
    open_bytes(probe(), name=provider, options=OpenOptions(provider=provider)).close()


@functools.cache
def saturates_here() -> bool:
    """Say whether ONNX Runtime's products of unsigned and signed bytes are clipped on this CPU."""
    return saturates(_run_trial)


def _run_trial(model: bytes, x: FloatArray) -> FloatArray:
    settings = _session_options(1, rewrites="all", products=None)
    session = onnxruntime.InferenceSession(model, settings, providers=["CPUExecutionProvider"])
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


def _int8_products(header: OnnxHeader, provider: Provider, rewrites: Rewrites) -> str | None:
    """Say which bytes an INT8 graph's products multiply; None for a graph that has none."""
    if not header.is_quantized or header.is_fp8 or provider != "cpu":
        return None
    if rewrites != "all":
        return _NO_PRODUCTS
    return _UNSIGNED if saturates_here() else _SIGNED


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


def _check_cache(artefact: Path, manifest: Manifest, options: OpenOptions) -> Provider:
    """Refuse a cache that this process cannot run as it was built; return its provider."""
    runtime = built_by(artefact, manifest, "onnxruntime")
    rebuild = commands.rebuild(artefact, manifest)
    graph = commands.graph_of(artefact, manifest) or "its graph"
    if runtime.version != onnxruntime.__version__:
        raise TrustError(
            f"the engine was built by ONNX Runtime {runtime.version}, "
            f"this is {onnxruntime.__version__}",
            where=str(artefact),
            fix=rebuild,
        )
    provider: Provider = "cuda" if runtime.settings.get("provider") == "cuda" else "cpu"
    other = processor.difference_from(
        runtime.machine, runtime.settings.get("instruction_sets", "").split()
    )
    if other and provider == "cpu":  # on a GPU no layout of the graph depends on the CPU
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
    if options.provider not in (None, provider):
        raise UsageError(
            f"the engine was built for the provider {provider}, not {options.provider}",
            where=str(artefact),
            fix=f"build it again for {options.provider}, or open {graph}",
        )
    return provider
