"""A session of ONNX Runtime on the provider that was asked for and no other.

ONNX Runtime replaces a provider that does not start by the CPU, without an error. That is refused
here, with the words in which the system's loader said what is missing; ONNX Runtime only logs them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import io
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read once, while the library loads

import onnxruntime as onnxruntime  # the other modules take it from here: see above
from onnxruntime.capi import onnxruntime_pybind11_state as _native

from engines.backends._ort.packages import require_one
from engines.contract import Provider
from engines.errors import EngineError, MissingDependencyError, UsageError
from engines.machine.installing import FROM_JETPACK, how_to_install
from engines.machine.jetson import read_board
from engines.onnx_header import OnnxHeader

_SILENT, _ERRORS = 4, 3
if hasattr(onnxruntime, "disable_telemetry_events"):
    onnxruntime.disable_telemetry_events()
onnxruntime.set_default_logger_severity(_SILENT)  # errors arrive as exceptions; stderr is not ours

ERRORS: tuple[type[Exception], ...] = (
    RuntimeError,
    ValueError,
    *(
        error
        for error in vars(_native).values()
        if isinstance(error, type) and issubclass(error, Exception)
    ),
)
_CPU = "CPUExecutionProvider"
_CUDA = (
    "CUDAExecutionProvider",
    {
        "use_tf32": "0",  # matching compares float32 scores
        "enable_skip_layer_norm_strict_mode": "1",  # statistics in float32, as the graph says
    },
)
# Without a precision of its own it keeps the graph's types (TensorRT from 9.2). A cache on the disk
# would be executable code that nobody has checked, and its CUDA graphs want bound addresses.
_TENSORRT = (
    "TensorrtExecutionProvider",
    {
        "trt_fp16_enable": "0",
        "trt_int8_enable": "0",
        "trt_engine_cache_enable": "0",
        "trt_timing_cache_enable": "0",
        "trt_dump_ep_context_model": "0",
        "trt_cuda_graph_enable": "0",
        "trt_auxiliary_streams": "0",
    },
)
_PROVIDERS: dict[Provider, tuple[Any, ...]] = {
    "cpu": (_CPU,),
    "cuda": (_CUDA, _CPU),
    "tensorrt": (_TENSORRT, _CUDA, _CPU),
}
_TF32 = "NVIDIA_TF32_OVERRIDE"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """A graph that ONNX Runtime is to open.

    Attributes:
        source: A file, or the graph itself.
        header: What the graph says of itself.
        settings: ONNX Runtime's SessionOptions.
        where: For messages.
    """

    source: str | bytes
    header: OnnxHeader
    settings: Any
    where: str


def open_session(model: Model, provider: Provider, *, more: Mapping[str, str] | None = None) -> Any:
    """Open a graph on a provider.

    For "tensorrt", TF32 is switched off for the whole process: ONNX Runtime has no setting of its
    own for it (issue 26029 of microsoft/onnxruntime), only the variable NVIDIA_TF32_OVERRIDE, which
    is set here unless it is set.

    Args:
        model: The graph.
        provider: What to run on.
        more: Options of the provider beside its usual ones.

    Raises:
        EngineError: ONNX Runtime refuses the graph.
        MissingDependencyError: The provider is not in this package, or it does not start; or two
            packages of ONNX Runtime are installed.
        UsageError: TF32 is forced on.
    """
    require_provider(provider, model.where)
    providers = list(_PROVIDERS[provider])
    wanted = _name(providers[0])
    if more:
        providers[0] = (wanted, {**providers[0][1], **more})
    if provider != "cpu":
        load_libraries(provider)

    def start() -> Any:
        return onnxruntime.InferenceSession(
            model.source,
            model.settings,
            providers=providers,
            enable_fallback=0,  # it would print to stdout and try again on the CPU
        )

    try:
        session = start()
    except ERRORS as error:
        if "TensorRT libraries" in str(error):
            raise _absent(start, provider, model.where) from error
        raise _open_error(error, model) from error
    if wanted not in session.get_providers():
        raise _absent(start, provider, model.where)
    return session


def require_provider(provider: Provider, where: str) -> None:
    """Refuse a provider that this package does not have; whether it starts shows later.

    Raises:
        MissingDependencyError: It is not there, or two packages of ONNX Runtime are installed.
    """
    require_one()
    wanted = _name(_PROVIDERS[provider][0])
    offered = onnxruntime.get_available_providers()
    if wanted not in offered:
        raise MissingDependencyError(
            f"this ONNX Runtime has no {wanted}; it has {', '.join(offered)}",
            where=where,
            fix="pip uninstall -y onnxruntime; " + how_to_install("onnxruntime-gpu", "gpu"),
        )


def load_libraries(provider: Provider) -> None:
    """Find CUDA, cuDNN and TensorRT where pip put them; what is missing shows at the start.

    Raises:
        UsageError: TF32 is forced on for TensorRT.
    """
    if hasattr(onnxruntime, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find
            onnxruntime.preload_dlls()
    if provider == "tensorrt":
        if os.environ.setdefault(_TF32, "0") != "0":
            raise UsageError(
                f"it is {os.environ[_TF32]}, so TensorRT would multiply float32 numbers in TF32, "
                "and token matching compares float32 scores",
                where=_TF32,
                fix=f"unset {_TF32}",
            )
        with contextlib.suppress(ImportError, OSError):
            importlib.import_module("tensorrt")  # loads the libraries of its package


def run_error(error: BaseException, where: str) -> EngineError:
    """Return the error of a run that failed.

    Args:
        error: ONNX Runtime's.
        where: Name of the engine.
    """
    return EngineError(
        f"ONNX Runtime failed while running: {one_line(error)}",
        where=where,
        fix="the message names the operator; open the graph with rewrites='none' to see whether "
        "a rewrite is at fault",
    )


def one_line(error: BaseException) -> str:
    """Return the runtime's message without line breaks, its error codes and its source lines."""
    text = " ".join(str(error).split())
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    return re.sub(r"/\S*onnxruntime_src\S+:\d+ .*?\) (?=[A-Z\[])", "", text)


def _name(provider: Any) -> str:
    return provider if isinstance(provider, str) else str(provider[0])


def _absent(start: Callable[[], Any], provider: Provider, where: str) -> MissingDependencyError:
    """Return the error of a provider that does not start, after asking why."""
    logged = _logged(start)
    library = re.search(r"with error: ((\S+): cannot open shared object file)", logged)
    found = library or re.search(r"((?:CUDA|CUDNN|cuDNN)\S* failure \d+: [^;\n]+)", logged)
    reason = f": {found[1].strip()}" if found else ""
    return MissingDependencyError(
        f"ONNX Runtime {onnxruntime.__version__} could not start "
        f"{_name(_PROVIDERS[provider][0])}{reason}",
        where=where,
        fix=_mend(library[2] if library else ""),
    )


def _mend(library: str) -> str:
    """Say how to get a library that is missing; without one, where to look."""
    name, _, version = library.partition(".so.")
    if name in ("libnvinfer", "libnvonnxparser"):
        if read_board({}) is not None:
            return FROM_JETPACK["tensorrt"]
        return f"pip install 'tensorrt=={version.partition('.')[0]}.*'"
    if name and name != "libcuda":
        return "pip install 'onnxruntime-gpu[cuda,cudnn]'"
    return "install or update the NVIDIA driver; nvidia-smi must list a GPU"


def _logged(start: Callable[[], Any]) -> str:
    """Return what ONNX Runtime logs when it starts a session that has failed once."""
    with _stderr() as lines:
        onnxruntime.set_default_logger_severity(_ERRORS)
        try:
            start()
        except ERRORS as error:
            lines.append(str(error))
        finally:
            onnxruntime.set_default_logger_severity(_SILENT)
    return "\n".join(lines)


@contextlib.contextmanager
def _stderr() -> Iterator[list[str]]:
    """Catch what the process writes to its standard error, which native code does unasked."""
    lines: list[str] = []
    with tempfile.TemporaryFile() as log:
        kept = os.dup(2)
        os.dup2(log.fileno(), 2)
        try:
            yield lines
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            log.seek(0)
            lines.append(log.read().decode("utf-8", "replace"))


def _open_error(error: BaseException, model: Model) -> EngineError:
    text = one_line(error)
    version = onnxruntime.__version__
    newest = re.search(r"official support for domain \S+ is till opset (\d+)", text)
    if newest:
        return EngineError(
            f"the graph has opset {model.header.opset}; ONNX Runtime {version} reads opsets up to "
            f"{newest[1]}",
            where=model.where,
            fix="export with --opset 20, or: pip install -U onnxruntime",
        )
    return EngineError(
        f"ONNX Runtime {version} refuses the graph: {text}",
        where=model.where,
        fix="the message names the node; check the graph with onnx.checker, or export it again",
    )
