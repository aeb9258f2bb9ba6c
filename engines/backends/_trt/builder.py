"""From an ONNX file to a serialized plan, for TensorRT 10 to 11 and TensorRT-RTX alike.

Versions are told apart by what they have, never by their number: TensorRT-RTX 1.7 is newer than
TensorRT 10, and enum values moved between them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from engines.backends._trt.log import Message, complaints, kernels_of, recorder
from engines.backends._trt.request import Request
from engines.backends._trt.timing_cache import Timings, attach
from engines.contract import Progress
from engines.errors import EngineError, UsageError
from engines.fusion.kernels import Kernel

_KNOWN_REFUSALS = (
    (
        "FP32 GEMM is not supported",
        "TensorRT-RTX has no FP32 matrix products for compute capability 7.5 (Turing)",
        "leave 7.5 out of the compute capabilities, and build with TensorRT on the card itself "
        "(--target t4@trt); a graph without merging builds for 7.5 once it is quantized to fp16, "
        "one that merges does not: its match stays in float32",
    ),
    (
        "HW-specific datatypes",
        "the graph holds a data type that one of the chosen GPU generations lacks",
        "FP8 needs compute capability 8.9 or newer, BF16 8.0: name only such, or choose fp16",
    ),
    (
        "BuildCanceled",
        "the build was cancelled",
        "start it again when you are ready",
    ),
    (
        "cudaError 35",
        "this build needs an NVIDIA driver and a GPU, and there is none",
        "build on the machine that will run the engine, or choose the target rtx",
    ),
)


@dataclasses.dataclass(frozen=True)
class Plan:
    """A finished build.

    Attributes:
        content: The serialized plan; a buffer that TensorRT owns.
        kernels: Its final layers as the log lists them; empty where it does not.
        settings: What decided the build, as text.
        timings: TensorRT's timing cache after the build; None where none was asked for, or where
            the file must stay as it is.
    """

    content: Any
    kernels: tuple[Kernel, ...]
    settings: dict[str, str]
    timings: bytes | None = None


def build_plan(
    trt: ModuleType, onnx: Path, request: Request, timings: Timings | None = None
) -> Plan:
    """Parse `onnx` and build its plan.

    Args:
        trt: The module `tensorrt` or `tensorrt_rtx`.
        onnx: The graph; its header was checked before.
        request: What is asked for.
        timings: What `request.timing_cache` holds.

    Raises:
        EngineError: TensorRT refuses the graph or the build; its log is in the message.
        UsageError: The runtime knows no such compute capability.
    """
    log = recorder(trt)
    with log.recording() as messages:
        builder, network, _parser = _parsed(trt, onnx, log, messages)
        config = builder.create_builder_config()
        settings = _configure(trt, config, request)
        if request.shapes:
            settings["profiles"] = _add_profile(builder, config, request)
        timing_cache = None
        if timings is not None:
            timing_cache, timings = attach(config, timings)
            settings["timing_cache"] = timings.note
        monitor = _progress_monitor(trt, request.progress)
        config.progress_monitor = monitor
        content = builder.build_serialized_network(network, config)
        if monitor.raised is not None:
            raise monitor.raised
        if content is None:
            raise _refusal("build the engine", complaints(messages), onnx)
        timed = None
        if timing_cache is not None and timings is not None and timings.keep:
            timed = bytes(timing_cache.serialize())
    return Plan(content, kernels_of(messages), settings, timed)


def _parsed(trt: Any, onnx: Path, log: Any, messages: Sequence[Message]) -> tuple[Any, Any, Any]:
    """Return builder, network and parser, which must live as long as the network is used."""
    builder = trt.Builder(log)
    network = builder.create_network(network_flags(trt))
    if network is None:
        raise _refusal("create a network", complaints(messages), onnx)
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(onnx)):
        told = complaints(messages)
        raise EngineError(
            f"TensorRT cannot read the graph: {_parser_errors(parser)} (its log: {told})",
            where=f"{onnx} {_first_node(parser)}".rstrip(),
            fix="export with the opset of the target; an operator it lacks must be rewritten",
        )
    return builder, network, parser


def _add_profile(builder: Any, config: Any, request: Request) -> str:
    """Add the profile of the dynamic inputs and return it as text."""
    profile = builder.create_optimization_profile()
    for name, (low, best, high) in request.shapes.items():
        profile.set_shape(name, low, best, high)
    config.add_optimization_profile(profile)
    return "; ".join(
        f"{name} {low} to {high}" + (f", tuned for {best}" if best != high else "")
        for name, (low, best, high) in request.shapes.items()
    )


def network_flags(trt: Any) -> int:
    """Return the bit mask for `create_network`: the types in the graph decide every precision.

    Where the builder could choose them instead (BuilderFlag.FP16), this must be asked for;
    elsewhere it is the only way, and its former bit means something else.
    """
    if not hasattr(trt.BuilderFlag, "FP16"):
        return 0
    return 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)


def compute_capability_names(trt: Any) -> tuple[str, ...]:
    """List what this TensorRT-RTX can build for, as "8.6"; empty for TensorRT."""
    members = getattr(getattr(trt, "ComputeCapability", None), "__members__", {})
    numbers = sorted(int(name[2:]) for name in members if name.startswith("SM"))
    return tuple(f"{number // 10}.{number % 10}" for number in numbers)


def _configure(trt: Any, config: Any, request: Request) -> dict[str, str]:
    """Set every option of the build and return them as text."""
    config.clear_flag(trt.BuilderFlag.TF32)  # matching compares float32 scores
    config.max_aux_streams = 0  # one stream: no signal and wait layers between kernels
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    settings = {"tf32": "off", "aux_streams": "0", "profiling_verbosity": "detailed"}
    if request.optimization_level is not None:
        config.builder_optimization_level = request.optimization_level
    settings["optimization_level"] = str(config.builder_optimization_level)
    if request.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, request.workspace_bytes)
        settings["workspace_bytes"] = str(request.workspace_bytes)
    if hasattr(config, "num_compute_capabilities"):
        known = compute_capability_names(trt)
        unknown = [name for name in request.compute_capabilities if name not in known]
        if unknown:
            raise UsageError(
                f"{trt.__name__} {trt.__version__} does not build for {', '.join(unknown)}, "
                f"it does for {', '.join(known)}",
                where="compute capabilities",
                fix="name some of those, such as 8.6",
            )
        config.num_compute_capabilities = len(request.compute_capabilities)
        for index, name in enumerate(request.compute_capabilities):
            member = f"SM{name.replace('.', '')}"
            config.set_compute_capability(getattr(trt.ComputeCapability, member), index)
    return settings


def _progress_monitor(trt: Any, progress: Progress | None) -> Any:
    """Wrap `progress` for TensorRT; its `raised` is what the callback raised, to raise again."""

    class ProgressMonitor(trt.IProgressMonitor):  # type: ignore[misc]  # known at run time only
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.raised: BaseException | None = None
            self._totals: dict[str, int] = {}
            self._go_on = True

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._totals[phase_name] = num_steps
            self._tell(phase_name, 0)

        def phase_finish(self, phase_name: str) -> None:
            self._totals.pop(phase_name, None)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return self._tell(phase_name, step + 1)

        def _tell(self, phase: str, done: int) -> bool:
            try:
                self._go_on = self._go_on and bool(tell(phase, done, self._totals.get(phase, 0)))
            except BaseException as error:  # noqa: BLE001  # TensorRT would swallow Ctrl-C
                self.raised, self._go_on = error, False
            return self._go_on

    # Even without a listener: Ctrl-C arrives inside a step, and must end the build.
    tell: Progress = progress or (lambda phase, done, total: True)
    return ProgressMonitor()


def _parser_errors(parser: Any) -> str:
    texts = []
    for index in range(parser.num_errors):
        parser_error = parser.get_error(index)
        code = getattr(parser_error.code(), "name", str(parser_error.code()))
        name, operator = parser_error.node_name(), parser_error.node_operator()
        node = f"node {name!r} ({operator}): " if name else ""
        texts.append(f"{node}{code}: {parser_error.desc()}")
    return "; ".join(texts) or "the parser gave no reason"


def _first_node(parser: Any) -> str:
    names = (parser.get_error(index).node_name() for index in range(parser.num_errors))
    return next((f"node {name!r}" for name in names if name), "")


def _refusal(attempt: str, log: str, onnx: Path) -> EngineError:
    for pattern, what, fix in _KNOWN_REFUSALS:
        if pattern in log:
            return EngineError(f"{what} ({log})", where=str(onnx), fix=fix)
    return EngineError(
        f"TensorRT could not {attempt}: {log}",
        where=str(onnx),
        fix="the log names the layer; compare with a build of the plain FP32 graph",
    )
