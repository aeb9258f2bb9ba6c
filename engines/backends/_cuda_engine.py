"""What engines on a CUDA device share: memory for their tensors, runs, and the device's clock."""

from __future__ import annotations

import abc
import contextlib
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from engines.backends._engine_base import EngineBase, EngineSpec
from engines.backends._feeds import check_feeds, resolved
from engines.backends._placement import Given, Placement
from engines.contract import Array, OpenOptions
from engines.cuda.device import Cuda, DeviceArray
from engines.errors import EngineError


class CudaEngine(EngineBase):
    """An engine on one CUDA device, all of whose work is queued on one stream.

    Feeds and outputs pass through page-locked memory, at addresses that stay as long as shapes do,
    so that a runtime can record a run as a CUDA graph and launch it again.
    """

    def __init__(self, cuda: Cuda, spec: EngineSpec, *, stream: int, options: OpenOptions) -> None:
        """Take over a stream of the device, which `close` destroys."""
        super().__init__(spec)
        self._cuda = cuda
        self._stream = stream
        self._zero_copy = options.zero_copy
        self._no_graph = None if options.cuda_graph else "switched off"
        self._placements: list[Placement] = []
        self._run_placement: Placement | None = None
        self._placed: list[weakref.finalize[Any, Any]] = []
        self._capturing = False
        self._unwanted: list[int] = []  # device memory to free once the capture is over
        self._lock = threading.RLock()  # one inference at a time

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run once and return the outputs by name; see `engines.contract.Engine`."""
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
        self._free_runtime()
        self._cuda.destroy_stream(self._stream)

    @abc.abstractmethod
    def _free_runtime(self) -> None:
        """Free what the runtime holds, before its stream goes."""

    @abc.abstractmethod
    def _execute(self, placement: Placement, given: Given) -> None:
        """Queue one run on a placement and on feeds that lie at the `given` addresses."""

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
        """Give a placement back, which the runtime may not use any more."""
        self._placements.remove(placement)
        placement.release()


def _given(feeds: Mapping[str, Any]) -> Given:
    """Return the addresses of the feeds that lie on the device already."""
    return {name: v.address for name, v in feeds.items() if isinstance(v, DeviceArray)}
