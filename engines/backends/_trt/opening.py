"""Open a plan: what its side-car says is compared with this machine before TensorRT sees a byte."""

from __future__ import annotations

import hashlib
import platform
from pathlib import Path
from typing import Any

from engines.backends._engine_base import EngineSpec
from engines.backends._trt.engine import TrtEngine
from engines.backends._trt.log import Message, complaints, recorder
from engines.backends._trt.module import EXTRAS, import_tensorrt
from engines.commands import rebuild
from engines.contract import OpenOptions
from engines.cuda.device import Cuda, open_cuda
from engines.errors import EngineError, MissingDependencyError, TrustError, UsageError
from engines.manifest import Dimension, Manifest, Runtime, TensorSpec

_DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT8": "int8",
    "UINT8": "uint8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
}
_INVALIDITIES = {
    1: "it is of another TensorRT-RTX version",
    2: "it holds no code for this GPU generation",
    4: "the NVIDIA driver is too old for it",
    8: "the CUDA runtime is too old for it",
    16: "this GPU has too little memory for it",
    32: "it is damaged",
    64: "CUDA failed",
}
_DRIVER_IS_OLD, _PLAN_IS_WRONG = 4 | 8, 1 | 2 | 32


def open_engine(artefact: Path, manifest: Manifest | None, *, options: OpenOptions) -> TrtEngine:
    """Open a plan; its side-car is compared with this machine before TensorRT sees a byte.

    Raises:
        TrustError: The plan has no side-car, or it was built for another runtime version, CPU
            architecture or GPU generation, or its inputs and outputs are others.
        UsageError: An option is for other runtimes.
        MissingDependencyError: TensorRT, the driver or the device is absent; the plan is fine.
        EngineError: TensorRT cannot open it.
    """
    if manifest is None or manifest.runtime is None:
        raise TrustError(
            "a plan is executable code, and the manifest does not say what made it",
            where=str(artefact),
            fix=rebuild(artefact, manifest),
        )
    # `threads` is about CPUs: nothing to refuse
    if options.rewrites not in (None, "all") or options.provider == "cpu":
        raise UsageError(
            "a plan runs on a GPU, and as TensorRT optimised it: it takes no other provider and "
            "no other rewrites",
            where=str(artefact),
            fix="leave provider and rewrites out, or open its graph instead",
        )
    runtime = manifest.runtime
    _check_flavour(artefact, manifest, runtime)
    facts = _facts(artefact, runtime)
    try:
        trt = import_tensorrt(runtime.flavour, where=str(artefact))
    except MissingDependencyError as error:
        raise _absent(error, artefact, facts) from error
    _check_same(artefact, manifest, "version", runtime.version, trt.__version__)
    try:
        cuda = open_cuda()
    except MissingDependencyError as error:
        raise _absent(error, artefact, facts) from error
    here = cuda.compute_capability()
    if runtime.compute_capabilities and here not in runtime.compute_capabilities:
        raise TrustError(
            f"the plan was built for compute capability "
            f"{', '.join(runtime.compute_capabilities)}, this device is {here}",
            where=str(artefact),
            fix=rebuild(artefact, manifest)
            if runtime.flavour == "tensorrt"
            else f"build it with {here} among the compute capabilities, or with none: a plan "
            "for every GPU that TensorRT-RTX supports",
        )
    return _open_on(cuda, trt, artefact, manifest, options)


def _open_on(
    cuda: Cuda, trt: Any, artefact: Path, manifest: Manifest, options: OpenOptions
) -> TrtEngine:
    """Deserialize a plan whose side-car fits this machine."""
    log = recorder(trt)
    content = artefact.read_bytes()
    if hashlib.sha256(content).hexdigest() != manifest.sha256:  # these bytes, not those read before
        raise TrustError(
            "the plan changed after it was checked",
            where=str(artefact),
            fix=rebuild(artefact, manifest),
        )
    with log.recording() as messages:
        deserializer = trt.Runtime(log)
        deserializer.engine_host_code_allowed = False
        _preflight(trt, deserializer, content, manifest, artefact, messages)
        trt_engine = deserializer.deserialize_cuda_engine(content)
        context = trt_engine.create_execution_context() if trt_engine is not None else None
    if context is None:
        raise EngineError(
            f"TensorRT cannot open the plan: {complaints(messages)}",
            where=str(artefact),
            fix=rebuild(artefact, manifest),
        )
    inputs, outputs = tensor_specs(trt, trt_engine, manifest, where=str(artefact))
    spec = EngineSpec(
        name=options.name or artefact.stem,
        inputs=inputs,
        outputs=outputs,
        batch_range=manifest.batch_range,
        facts={
            "runtime": manifest.runtime.flavour if manifest.runtime else "",
            "version": str(trt.__version__),
            "driver": cuda.driver_version(),
            "compute_capability": cuda.compute_capability(),
        },
    )
    owners = (deserializer, trt_engine)
    return TrtEngine(cuda, spec, context, owners=owners, log=log, options=options)


def tensor_specs(
    trt: Any, trt_engine: Any, manifest: Manifest, *, where: str
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Return inputs and outputs as the manifest has them, after comparing them with the plan.

    Raises:
        TrustError: Names, shapes or types differ.
        EngineError: A tensor has a type that numpy lacks.
    """
    found = {}
    for index in range(trt_engine.num_io_tensors):
        name = trt_engine.get_tensor_name(index)
        kind = trt_engine.get_tensor_dtype(name).name
        if kind not in _DTYPES:
            raise EngineError(
                f"{name!r} has the type {kind}, which numpy cannot hold",
                where=where,
                fix="cast inputs and outputs to float16 or float32 in the graph",
            )
        is_input = trt_engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
        found[name] = (is_input, _DTYPES[kind], tuple(trt_engine.get_tensor_shape(name)))
    wanted = {
        spec.name: (is_input, spec.dtype, _runtime_shape(spec.shape))
        for is_input, specs in ((True, manifest.inputs), (False, manifest.outputs))
        for spec in specs
    }
    if found != wanted:
        differing = sorted(
            name for name in {*found, *wanted} if found.get(name) != wanted.get(name)
        )
        detail = "; ".join(
            f"{name!r} is {_in_words(found.get(name))}, the manifest says "
            f"{_in_words(wanted.get(name))}"
            for name in differing
        )
        raise TrustError(
            f"the plan's inputs and outputs are not those of its manifest: {detail}",
            where=where,
            fix=rebuild(Path(where), manifest),
        )
    return manifest.inputs, manifest.outputs


def _in_words(tensor: tuple[bool, str, tuple[int, ...]] | None) -> str:
    """Return what a tensor is, such as "an input float32 (-1, 3, 224, 224)"."""
    if tensor is None:
        return "neither an input nor an output"
    is_input, dtype, shape = tensor
    return f"an {'input' if is_input else 'output'} {dtype} ({', '.join(map(str, shape))})"


def _check_flavour(artefact: Path, manifest: Manifest, runtime: Runtime) -> None:
    if runtime.flavour not in EXTRAS:
        raise TrustError(
            f"its manifest says that {runtime.flavour} built it, not TensorRT",
            where=str(artefact),
            fix=rebuild(artefact, manifest),
        )
    if runtime.flavour == "tensorrt":  # plans of TensorRT-RTX are portable between systems
        _check_same(artefact, manifest, "CPU", runtime.machine, platform.machine())


def _check_same(artefact: Path, manifest: Manifest, what: str, built: str, here: str) -> None:
    if built != here:
        raise TrustError(
            f"the plan was built for {what} {built}, this is {here}",
            where=str(artefact),
            fix=rebuild(artefact, manifest),
        )


def _preflight(
    trt: Any,
    deserializer: Any,
    content: bytes,
    manifest: Manifest,
    artefact: Path,
    messages: list[Message],
) -> None:
    """Ask TensorRT-RTX whether it takes the plan; TensorRT itself has no such question."""
    if not hasattr(deserializer, "get_engine_validity"):
        return
    validity, mask = deserializer.get_engine_validity(content[: deserializer.engine_header_size])
    if validity != trt.EngineValidity.INVALID:
        return
    reasons = [text for bit, text in _INVALIDITIES.items() if int(mask) & bit]
    what = ", ".join(reasons) or complaints(messages)
    if int(mask) & _DRIVER_IS_OLD:
        raise MissingDependencyError(
            f"TensorRT-RTX cannot run the plan here: {what}",
            where=str(artefact),
            fix="update the NVIDIA driver",
        )
    kind = TrustError if int(mask) & _PLAN_IS_WRONG else EngineError
    raise kind(
        f"TensorRT-RTX does not take the plan: {what}",
        where=str(artefact),
        fix=rebuild(artefact, manifest),
    )


def _facts(artefact: Path, runtime: Runtime) -> str:
    """Say in a sentence that the plan itself is whole and what it holds."""
    settings = runtime.settings
    kernels = ""
    if "kernels" in settings:
        kernels = f", {settings['kernels']} kernels, {settings['fused_attentions']} of them "
        kernels += "fused attentions"
    places = ", ".join(runtime.compute_capabilities) or "every supported GPU"
    size = artefact.stat().st_size / 2**20
    return (
        f"the plan itself is fine ({size:.1f} MiB, its hash matches): {runtime.flavour} "
        f"{runtime.version} for compute capability {places}{kernels}"
    )


def _absent(error: MissingDependencyError, artefact: Path, facts: str) -> MissingDependencyError:
    return MissingDependencyError(f"{error.what}; {facts}", where=str(artefact), fix=error.fix)


def _runtime_shape(shape: tuple[Dimension, ...]) -> tuple[int, ...]:
    return tuple(extent if isinstance(extent, int) else -1 for extent in shape)
