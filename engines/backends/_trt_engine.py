"""A deserialized plan on a device: shapes, addresses, CUDA graphs and runs."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from engines.backends._trt_log import Recorder, complaints
from engines.backends._trt_placement import Given, Placement
from engines.backends._trt_refit import refit_plan
from engines.cuda import Cuda, DeviceArray
from engines.engine import Array, OpenOptions
from engines.engine_base import EngineBase
from engines.errors import EngineError
from engines.feeds import check_feeds, resolved
from engines.manifest import TensorSpec

_REBUILD = "build the engine again from its graph"


class TrtEngine(EngineBase):
    """A deserialized plan on one device; implements `engines.engine.Engine`.

    The first run with certain addresses is queued call by call. It is recorded then, and what
    follows is one launch of that CUDA graph, unless the options or TensorRT forbid it.

    Not run on hardware yet.
    """

    def __init__(
        self,
        cuda: Cuda,
        owners: tuple[Any, Any],
        context: Any,
        *,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        batch_range: tuple[int, int] | None,
        name: str,
        facts: dict[str, str],
        log: Recorder,
        options: OpenOptions,
        make_refitter: Callable[[], Any] | None = None,
    ) -> None:
        super().__init__(name=name, inputs=inputs, outputs=outputs, batch_range=batch_range)
        self._cuda = cuda
        self._owners = list(owners)  # TensorRT's runtime and engine outlive the context
        self._context = context
        self._facts = facts
        self._make_refitter = make_refitter
        self._log, self._heard = log, log.listen()
        self._zero_copy = options.zero_copy
        self._no_graph = None if options.cuda_graph else "switched off"
        self._stream = cuda.create_stream()
        self._placements: list[Placement] = []
        self._run_placement: Placement | None = None
        self._active: Placement | None = None
        self._placed: list[weakref.finalize[Any, Any]] = []
        self._capturing = False
        self._unwanted: list[int] = []  # device memory to free once the capture is over
        self._lock = threading.RLock()  # a context runs one inference at a time

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run once and return the outputs by name; see `engines.engine.Engine`."""
        checked, extents = self._check(feeds)
        with self._alone():
            placement = self._run_placement
            if placement is None or not placement.suits(checked, extents):
                if placement is not None:
                    self._release(placement)
                    self._run_placement = None
                placement = self._run_placement = self._reserve(checked, extents)
            placement.fill(checked, self._stream)
            self._execute(placement, _given(checked))
            return placement.fetch(self._stream)

    def bind(self, feeds: Mapping[str, Array]) -> Callable[[], None]:
        """Put `feeds` in place once; the result runs on them, and no copy is in it."""
        checked, extents = self._check(feeds)
        with self._alone():
            placement = self._reserve(checked, extents)
            placement.fill(checked, self._stream)
            self._cuda.synchronize(self._stream)
        kept = {name: value for name, value in checked.items() if isinstance(value, DeviceArray)}

        def run_once() -> None:
            with self._alone():
                self._execute(placement, _given(kept))
                self._cuda.synchronize(self._stream)

        return run_once

    def device_times_ns(self, feeds: Mapping[str, Array], *, runs: int) -> list[int]:
        """Return what the GPU's own clock saw of each run, without copies, in nanoseconds.

        One run in flight; the event before it is recorded on an idle stream.
        """
        checked, extents = self._check(feeds)
        given = _given(checked)
        with self._alone():
            placement = self._reserve(checked, extents)
            try:
                placement.fill(checked, self._stream)
                self._execute(placement, given)
                return [
                    self._cuda.elapsed_ns(lambda: self._execute(placement, given), self._stream)
                    for _ in range(runs)
                ]
            finally:
                self._release(placement)

    def place(self, feeds: Mapping[str, Array]) -> Mapping[str, Any]:
        """Upload feeds that many runs share; switching between them changes addresses only."""
        self._require_open()
        specs = [spec for spec in self.inputs if spec.name in feeds]
        checked, _ = check_feeds(specs, feeds, where=self.name)
        placed = {}
        with self._alone():
            for name, value in checked.items():
                address = self._cuda.allocate(value.nbytes)
                array = DeviceArray(value.shape, value.dtype, address)
                self._placed.append(weakref.finalize(array, self._give_back, address))
                self._cuda.upload(address, value, self._stream)
                placed[name] = array
            self._cuda.synchronize(self._stream)
            self._placed = [finalizer for finalizer in self._placed if finalizer.alive]
        return placed

    def refit(self, weights: Mapping[str, Array]) -> None:
        """Replace constants of the plan, for every run from now on; see `refit_plan`.

        Raises:
            UsageError: The plan was not built to be refitted.
            InputError: It has no such weights, or needs others too.
            EngineError: TensorRT failed.
        """
        self._require_open()
        with self._alone():
            self._cuda.synchronize(self._stream)  # weights must not change under a run
            for placement in self._placements:
                placement.drop_graphs()
            refit_plan(self._make_refitter, self._owners[-1], weights, where=self.name)

    def describe(self) -> dict[str, str]:
        """Return what a measurement must record about this engine."""
        graph = "yes" if self._no_graph is None else f"no: {self._no_graph}"
        copies = "zero-copy" if self._zero_copy else "page-locked"
        return {**self._facts, "cuda_graph": graph, "host_memory": copies}

    def _free(self) -> None:
        for placement in list(self._placements):
            self._release(placement)
        for finalizer in self._placed:
            finalizer()
        self._context = None
        while self._owners:
            self._owners.pop()
        self._cuda.destroy_stream(self._stream)
        self._log.stop(self._heard)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Let one thread at a time use the context, with the device current in it."""
        with self._lock:
            self._cuda.attach()
            yield

    def _give_back(self, address: int) -> None:
        """Free device memory; the collector may call this in any thread, and at any time."""
        with self._alone():
            if self._capturing:
                self._unwanted.append(address)
            else:
                self._cuda.free(address)

    def _reserve(self, feeds: Mapping[str, Array], extents: dict[str, int]) -> Placement:
        """Reserve memory for feeds of these shapes and for the outputs they lead to."""
        outputs = []
        for spec in self.outputs:
            shape = resolved(spec, extents)
            if shape is None:
                raise EngineError(
                    f"the shape of {spec.name!r} does not follow from the inputs: {spec.shape}",
                    where=self.name,
                    fix="export with a static batch",
                )
            outputs.append((spec, shape))
        placement = Placement(self._cuda, feeds, outputs, extents, zero_copy=self._zero_copy)
        self._placements.append(placement)
        return placement

    def _release(self, placement: Placement) -> None:
        self._placements.remove(placement)
        if self._active is placement:
            self._active = None
        placement.release()

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


def _given(feeds: Mapping[str, Any]) -> Given:
    """Return the addresses of the feeds that lie on the device already."""
    return {name: v.address for name, v in feeds.items() if isinstance(v, DeviceArray)}
