"""What backends implement and callers rely on: engines, their options, and builds.

A backend is a file in `engines/backends/` with two functions, `build` and `open_engine`; the
protocol `Backend` states them. `engines.engine` finds the backend of a target or a file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from numpy.typing import NDArray

from engines.fusion.report import FusionReport
from engines.manifest import Manifest, TensorSpec
from engines.targets import Target

if TYPE_CHECKING:
    from typing_extensions import Self  # typing.Self needs Python 3.11

Array = NDArray[Any]
Feeds = Mapping[str, Array]
Progress = Callable[[str, int, int], bool]
"""`progress(phase, done, total) -> keep going?`; total 0 means unknown."""

Rewrites = Literal["all", "keep-qdq", "none"]
"""What a runtime may do to a graph before it runs it.

"all" fuses what it can, Q/DQ pairs into integer products too: for speed. "none" runs node by node:
what the graph means. "keep-qdq" means the same in less time: every Q/DQ pair and every
rounding to half precision stays, and float32 sums may be added up in another order. ONNX Runtime
alone knows the last two. (ViT-B/16 in INT8, ONNX Runtime 1.31.1, one thread: 0.27 against 0.61 s
an image with float32 between the pairs, 0.72 against 1.04 s with float16.)
"""

Provider = Literal["cpu", "cuda", "tensorrt"]
"""What ONNX Runtime runs a graph on; "tensorrt" compiles it anew at every opening."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """How an engine is built; what is None is chosen by the target.

    Attributes:
        compute_capabilities: GPU generations to compile for, such as "8.6". TensorRT-RTX only.
        optimization_level: Effort of TensorRT's builder or of PyTorch's compiler, 0 to 5.
        workspace_bytes: Upper limit of scratch memory while building and running.
        batches: Smallest batch, the one to tune for, and largest, of a graph whose batch is
            dynamic; None takes the range that it was exported for. TensorRT only.
        timing_cache: File with TensorRT's timings to start from and to keep; written with a side
            file that proves it.
        force: Replace an artefact that exists.
        allow_failed: Build from a graph whose check failed; the engine counts as failed, too.
        any_form: Build from a graph that was written for a target of another form; see
            `engines.form`.
        command: The command line to record in the manifest.
        progress: Called while building; returning False cancels the build.
    """

    compute_capabilities: tuple[str, ...] | None = None
    optimization_level: int | None = None
    workspace_bytes: int | None = None
    batches: tuple[int, int, int] | None = None
    timing_cache: Path | None = None
    force: bool = False
    allow_failed: bool = False
    any_form: bool = False
    command: tuple[str, ...] = ()
    progress: Progress | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpenOptions:
    """How an engine is opened.

    Attributes:
        threads: CPU threads of one inference; None takes the physical cores this process may use.
        rewrites: What the runtime may do to a graph; see `Rewrites`. None takes "all", and
            "keep-qdq" for an FP8 graph, which ONNX Runtime cannot rewrite.
        provider: What ONNX Runtime runs on; None takes what the artefact was built for, and the
            CPU for a plain graph. It is never replaced by another one silently.
        name: The engine's name in tables; None takes the file's stem.
        signers: Who may have signed it, see `engines.transport.signature.verify`; None asks for no
            signature.
        cuda_graph: Whether runs of a plan are recorded as a CUDA graph and launched as one call.
        zero_copy: Let the GPU read images and write logits in the host's own memory, page-locked,
            instead of copying them. For boards whose CPU and GPU share their memory; elsewhere it
            works, slowly. TensorRT only.
        allow_failed: Open what failed its check; see `engines.verdict`.
    """

    threads: int | None = None
    rewrites: Rewrites | None = None
    provider: Provider | None = None
    name: str | None = None
    signers: Path | None = None
    cuda_graph: bool = True
    zero_copy: bool = False
    allow_failed: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class BuildRecord:
    """What a backend hands back after it wrote an engine; the caller writes these beside it.

    Attributes:
        manifest: Without hash and size.
        fusion: The kernels, where the runtime lists them.
    """

    manifest: Manifest
    fusion: FusionReport | None = None


class Engine(Protocol):
    """An opened artefact that can run. Holds device memory: use it in a `with` statement."""

    @property
    def name(self) -> str:
        """A short name for tables: the file's stem unless the caller set another."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The inputs in the graph's order."""

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The outputs in the graph's order."""

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """Run once and return the outputs by name.

        Raises:
            InputError: A feed is missing, unexpected, misshapen or of another dtype.
            EngineError: The runtime failed.
        """

    def bind(self, feeds: Feeds) -> Callable[[], None]:
        """Put `feeds` in place once; the result runs one inference and returns when it is done.

        What a latency measurement calls: no copy of inputs or outputs inside the timed region.
        """

    def place(self, feeds: Feeds) -> Feeds:
        """Put feeds that many runs share where the runtime reads them, and return them.

        The feeds need not be all of the engine's. On a GPU they are uploaded here, once; what comes
        back is for `run` and `bind` of this engine, beside other feeds.

        Raises:
            InputError: A feed is unexpected, misshapen or of another dtype.
        """

    def describe(self) -> dict[str, str]:
        """Return what a measurement must record: runtime, version, provider, threads, device."""

    def close(self) -> None:
        """Free what the engine holds. Calling it twice is harmless."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


@runtime_checkable
class DeviceClock(Protocol):
    """What an engine offers too if its device has a clock of its own: CUDA's events."""

    def device_times_ns(self, feeds: Feeds, *, runs: int) -> list[int]:
        """Return how long the device took for each run, without copies, in nanoseconds."""


class Backend(Protocol):
    """What a file in `engines/backends/` offers."""

    def build(self, onnx: Path, target: Target, out: Path, *, options: BuildOptions) -> BuildRecord:
        """Write the engine for `onnx` to `out`, atomically, and return what belongs beside it."""

    def open_engine(
        self, artefact: Path, manifest: Manifest | None, *, options: OpenOptions
    ) -> Engine:
        """Open `artefact`, whose bytes the caller has checked against `manifest`."""
