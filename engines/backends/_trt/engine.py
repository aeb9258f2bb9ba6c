"""A deserialized plan on a device: shapes, addresses and CUDA graphs."""

from __future__ import annotations

from typing import Any

from engines.backends._cuda_engine import CudaEngine
from engines.backends._engine_base import EngineSpec
from engines.backends._placement import Given, Placement
from engines.backends._trt.log import Recorder, complaints
from engines.contract import OpenOptions
from engines.cuda.device import Cuda
from engines.errors import EngineError

_REBUILD = "build the engine again from its graph"


class TrtEngine(CudaEngine):
    """A deserialized plan on one device; implements `engines.contract.Engine`.

    The first run with certain addresses is queued call by call. It is recorded then, and what
    follows is one launch of that CUDA graph, unless the options or TensorRT forbid it.

    Not run on hardware yet.
    """

    def __init__(
        self,
        cuda: Cuda,
        spec: EngineSpec,
        context: Any,
        *,
        owners: tuple[Any, Any],
        log: Recorder,
        options: OpenOptions,
    ) -> None:
        """Take a context that runs.

        Args:
            cuda: The device.
            spec: As the manifest has it.
            context: TensorRT's execution context.
            owners: TensorRT's runtime and engine, which must outlive the context.
            log: What TensorRT logs to.
            options: How the engine is opened.
        """
        super().__init__(cuda, spec, stream=cuda.create_stream(), options=options)
        self._owners = list(owners)
        self._context = context
        self._log, self._heard = log, log.listen()
        self._active: Placement | None = None

    def _free_runtime(self) -> None:
        self._context = None
        while self._owners:
            self._owners.pop()
        self._log.stop(self._heard)

    def _release(self, placement: Placement) -> None:
        if self._active is placement:
            self._active = None
        super()._release(placement)

    def _execute(self, placement: Placement, given: Given) -> None:
        """Queue one run on a placement and on feeds that lie at the `given` addresses."""
        self._require_open()
        graph = placement.graph(given)
        if graph is not None:
            self._cuda.launch(graph, self._stream)
            return
        if self._active is not placement:
            self._activate(placement)
        if placement.given != given:
            self._point(given)
            placement.given = given
        self._enqueue()
        if self._no_graph is None:
            self._record(placement, given)

    def _enqueue(self) -> None:
        """Let TensorRT queue its kernels, or have them recorded."""
        self._heard.clear()
        if not self._context.execute_async_v3(self._stream):
            raise self._refused("TensorRT refused to run the engine", "run it again, or rebuild it")

    def _record(self, placement: Placement, given: Given) -> None:
        """Record a run as a CUDA graph, after one that let TensorRT allocate what it needs."""
        context = self._context
        may = getattr(context, "is_stream_capturable", None)
        if may is not None and not may(self._stream):
            return  # TensorRT-RTX still specialises kernels; the next run asks again
        self._cuda.synchronize(self._stream)
        self._capturing = True
        try:
            placement.keep_graph(given, self._cuda.capture(self._enqueue, self._stream))
        except EngineError as error:
            self._no_graph = error.what
        finally:
            self._capturing = False
            while self._unwanted:
                self._cuda.free(self._unwanted.pop())

    def _activate(self, placement: Placement) -> None:
        """Tell the context where this placement's tensors lie."""
        context = self._context
        for name, shape in placement.input_shapes.items():
            if not context.set_input_shape(name, shape):
                raise self._refused(
                    f"TensorRT does not take the shape {shape} for {name!r}",
                    "keep to the batch range the engine was built for",
                )
        unset = context.infer_shapes()
        if unset:
            raise self._refused(f"shapes do not follow for {', '.join(unset)}", _REBUILD)
        self._point(placement.addresses)
        placement.given = {}
        self._active = placement

    def _point(self, addresses: dict[str, int]) -> None:
        """Tell the context where tensors lie."""
        context = self._context
        for name, address in addresses.items():
            if not context.set_tensor_address(name, address):
                raise self._refused(f"TensorRT does not take the memory of {name!r}", _REBUILD)

    def _refused(self, what: str, fix: str) -> EngineError:
        """Return the error with everything that TensorRT logged about this run."""
        return EngineError(f"{what}: {complaints(self._heard)}", where=self.name, fix=fix)
