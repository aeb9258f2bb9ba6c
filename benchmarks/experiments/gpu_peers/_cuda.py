"""A torch module on a CUDA device behind the Engine protocol, eager or as one CUDA graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.conditions.failures import as_engine_error
from benchmarks.peers import PeerSource
from benchmarks.peers._runner import Runner
from engines import registry
from engines.backends._engine_base import EngineSpec
from engines.contract import Array, Feeds
from engines.errors import MissingDependencyError
from engines.manifest import TensorSpec

torch: Any = registry.import_or_explain("torch")

_WARM_CALLS = 3  # torch asks for a few calls on a side stream before a capture
_RECOMPILES = 256
Module = Callable[[Any], Any]
"""From a tensor (B, 3, H, W) to a tensor (B, K)."""
Enqueue = Callable[[], Any]
"""Starts one inference and returns the tensor that will hold its logits."""


class CudaRunner(Runner):
    """A Runner that also measures with CUDA events."""

    def __init__(
        self,
        spec: EngineSpec,
        *,
        run: Callable[[Array], Array],
        bind: Callable[[Array], Callable[[], None]],
        enqueue: Callable[[Array], Enqueue],
    ) -> None:
        super().__init__(spec, run=run, bind=bind)
        self._enqueue = enqueue

    def device_times_ns(self, feeds: Feeds, *, runs: int) -> list[int]:
        """Return what the GPU's own clock saw of each run, in nanoseconds.

        One run in flight; the event before it is recorded on an idle stream.
        """
        with as_engine_error(self.name):
            enqueue = self._enqueue(self._batch(feeds))
            found = []
            for _ in range(runs):
                before = torch.cuda.Event(enable_timing=True)
                after = torch.cuda.Event(enable_timing=True)
                torch.cuda.synchronize()
                before.record()
                enqueue()
                after.record()
                torch.cuda.synchronize()
                found.append(round(before.elapsed_time(after) * 1e6))
            return found


def open_module(
    module: Module, *, name: str, source: PeerSource, graph: bool, facts: dict[str, str]
) -> CudaRunner:
    """Return an engine that calls `module` on the current CUDA device.

    Args:
        module: Already on the device and in evaluation mode.
        name: For tables.
        source: Says the input's size and type.
        graph: Capture the call as one CUDA graph and replay it: no launch costs on the host.
        facts: To record.
    """

    def enqueue(batch: Array) -> Enqueue:
        images = torch.from_numpy(batch).cuda()
        return _capture(module, images) if graph else lambda: _call(module, images)

    def run(batch: Array) -> Array:
        with as_engine_error(name):
            return np.asarray(enqueue(batch)().float().cpu().numpy())

    def bind(batch: Array) -> Callable[[], None]:
        with as_engine_error(name):
            launch = enqueue(batch)
            launch()
            torch.cuda.synchronize()

        def run_once() -> None:
            launch()
            torch.cuda.synchronize()

        return run_once

    spec = EngineSpec(
        name=name,
        inputs=(TensorSpec(name="images", shape=("batch", *source.image), dtype=source.dtype),),
        outputs=(TensorSpec(name="logits", shape=("batch", "classes"), dtype="float32"),),
        facts={
            "runtime": "torch",
            "version": torch.__version__,
            "provider": "cuda",
            "device": torch.cuda.get_device_name(),
            "dtype": source.dtype,
            "cuda_graph": "yes" if graph else "no",
            **facts,
        },
    )
    return CudaRunner(spec, run=run, bind=bind, enqueue=enqueue)


def module_on_device(source: PeerSource, name: str) -> Module:
    """Build the module, move it to the device and switch every TF32 path off.

    Raises:
        MissingDependencyError: torch sees no CUDA device.
    """
    if not torch.cuda.is_available():
        raise MissingDependencyError(
            "torch sees no CUDA device", where=name, fix="run on a machine with an NVIDIA GPU"
        )
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    with as_engine_error(name):
        module: Module = source.build_module(name).eval().cuda()
        return module


def compiled(module: Module, *, mode: str) -> Module:
    """Compile for static shapes, as one graph.

    `fullgraph` makes torch raise where it would fall back to eager and keep the label.
    """
    # One code object serves all subjects and batches; torch stops compiling it after a few.
    settings: Any = registry.import_or_explain("torch._dynamo.config")
    settings.recompile_limit = _RECOMPILES
    found: Module = torch.compile(module, dynamic=False, fullgraph=True, mode=mode)
    return found


def _call(module: Module, images: Any) -> Any:
    with torch.no_grad():
        return module(images)


def _capture(module: Module, images: Any) -> Enqueue:
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(_WARM_CALLS):
            _call(module, images)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        logits = _call(module, images)

    def replay() -> Any:
        graph.replay()
        assert images is not None  # the graph reads its memory: it must live as long
        return logits

    return replay
