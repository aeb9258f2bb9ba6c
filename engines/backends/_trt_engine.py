"""A deserialized plan: device memory, shapes and runs."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from engines.backends._trt_log import Recorder, complaints
from engines.backends._trt_refit import refit_plan
from engines.cuda import Cuda, DeviceArray
from engines.engine import Array
from engines.engine_base import EngineBase
from engines.errors import EngineError
from engines.feeds import check_feeds, resolved
from engines.manifest import TensorSpec

_REBUILD = "build the engine again from its graph"


class TrtEngine(EngineBase):
    """A deserialized plan on one device; implements `engines.engine.Engine`.

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
        make_refitter: Callable[[], Any] | None = None,
    ) -> None:
        super().__init__(name=name, inputs=inputs, outputs=outputs, batch_range=batch_range)
        self._cuda = cuda
        self._owners = list(owners)  # TensorRT's runtime and engine outlive the context
        self._context = context
        self._facts = facts
        self._make_refitter = make_refitter
        self._log, self._heard = log, log.listen()
        self._stream = cuda.create_stream()
        self._placements: list[_Placement] = []
        self._run_placement: _Placement | None = None
        self._active: _Placement | None = None
        self._placed: list[weakref.finalize[Any, Any]] = []
        self._lock = threading.RLock()  # a context runs one inference at a time

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run once and return the outputs by name; see `engines.engine.Engine`."""
        checked, extents = self._check(feeds)
        with self._alone():
            placement = self._run_placement
            if placement is None or not placement.suits(checked, extents):
                if placement is not None:
                    self._release(placement)
                placement = self._run_placement = self._reserve(checked, extents)
            self._upload(placement, checked)
            self._execute(placement, _given(checked))
            for name, value in placement.outputs.items():
                self._cuda.download(value, placement.addresses[name], self._stream)
            self._cuda.synchronize(self._stream)
            return {name: value.copy() for name, value in placement.outputs.items()}

    def bind(self, feeds: Mapping[str, Array]) -> Callable[[], None]:
        """Upload `feeds` once; the result runs on device memory only."""
        checked, extents = self._check(feeds)
        with self._alone():
            placement = self._reserve(checked, extents)
            self._upload(placement, checked)
            self._cuda.synchronize(self._stream)
        kept = {name: value for name, value in checked.items() if isinstance(value, DeviceArray)}

        def run_once() -> None:
            with self._alone():
                self._execute(placement, _given(kept))
                self._cuda.synchronize(self._stream)

        return run_once

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
            refit_plan(self._make_refitter, self._owners[-1], weights, where=self.name)

    def describe(self) -> dict[str, str]:
        """Return what a measurement must record about this engine."""
        return dict(self._facts)

    def _free(self) -> None:
        self._context = None
        while self._owners:
            self._owners.pop()
        for placement in list(self._placements):
            self._release(placement)
        for finalizer in self._placed:
            finalizer()
        self._cuda.destroy_stream(self._stream)
        self._log.stop(self._heard)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Let one thread at a time use the context, with the device current in it."""
        with self._lock:
            self._cuda.attach()
            yield

    def _give_back(self, address: int) -> None:
        """Free device memory; the collector may call this in any thread."""
        with self._alone():
            self._cuda.free(address)

    def _reserve(self, feeds: Mapping[str, Array], extents: dict[str, int]) -> _Placement:
        """Reserve device memory for feeds of these shapes and for the outputs they lead to."""
        outputs: dict[str, Array] = {}
        for spec in self.outputs:
            shape = resolved(spec, extents)
            if shape is None:
                raise EngineError(
                    f"the shape of {spec.name!r} does not follow from the inputs: {spec.shape}",
                    where=self.name,
                    fix="export with a static batch",
                )
            outputs[spec.name] = np.empty(shape, spec.dtype)
        placement = _Placement(
            {name: value.shape for name, value in feeds.items()}, outputs, extents
        )
        self._placements.append(placement)
        for name, value in (*feeds.items(), *outputs.items()):
            if not isinstance(value, DeviceArray):
                placement.addresses[name] = self._cuda.allocate(value.nbytes)
        return placement

    def _release(self, placement: _Placement) -> None:
        self._placements.remove(placement)
        if self._active is placement:
            self._active = None
        while placement.addresses:
            self._cuda.free(placement.addresses.popitem()[1])

    def _upload(self, placement: _Placement, feeds: Mapping[str, Array]) -> None:
        for name, value in feeds.items():
            if not isinstance(value, DeviceArray):
                self._cuda.upload(placement.addresses[name], value, self._stream)

    def _execute(self, placement: _Placement, given: dict[str, int]) -> None:
        """Run on a placement and on feeds that lie at the `given` addresses."""
        self._require_open()
        context = self._context
        self._heard.clear()
        if self._active is not placement:
            self._activate(context, placement)
        if placement.given != given:
            self._point(context, given)
            placement.given = given
        if not context.execute_async_v3(self._stream):
            raise self._refused("TensorRT refused to run the engine", "run it again, or rebuild it")

    def _activate(self, context: Any, placement: _Placement) -> None:
        """Tell the context where this placement's tensors lie."""
        for name, shape in placement.input_shapes.items():
            if not context.set_input_shape(name, shape):
                raise self._refused(
                    f"TensorRT does not take the shape {shape} for {name!r}",
                    "keep to the batch range the engine was built for",
                )
        unset = context.infer_shapes()
        if unset:
            raise self._refused(f"shapes do not follow for {', '.join(unset)}", _REBUILD)
        self._point(context, placement.addresses)
        placement.given = {}
        self._active = placement

    def _point(self, context: Any, addresses: dict[str, int]) -> None:
        """Tell the context where tensors lie."""
        for name, address in addresses.items():
            if not context.set_tensor_address(name, address):
                raise self._refused(f"TensorRT does not take the memory of {name!r}", _REBUILD)

    def _refused(self, what: str, fix: str) -> EngineError:
        """Return the error with everything that TensorRT logged about this run."""
        return EngineError(f"{what}: {complaints(self._heard)}", where=self.name, fix=fix)


def _given(feeds: Mapping[str, Any]) -> dict[str, int]:
    """Return the addresses of the feeds that lie on the device already."""
    return {name: v.address for name, v in feeds.items() if isinstance(v, DeviceArray)}


class _Placement:
    """Device memory of one set of feeds and outputs.

    Attributes:
        addresses: What it holds itself.
        given: Addresses of the feeds that `place` uploaded, as the context has them.
    """

    def __init__(
        self,
        input_shapes: dict[str, tuple[int, ...]],
        outputs: dict[str, Array],
        extents: dict[str, int],
    ) -> None:
        self.input_shapes, self.outputs, self.extents = input_shapes, outputs, extents
        self.addresses: dict[str, int] = {}
        self.given: dict[str, int] = {}

    def suits(self, feeds: Mapping[str, Any], extents: dict[str, int]) -> bool:
        """Whether these feeds have the same shapes, and come from the host where those did."""
        hosted = {name for name, value in feeds.items() if not isinstance(value, DeviceArray)}
        return self.extents == extents and hosted == self.addresses.keys() & feeds.keys()
