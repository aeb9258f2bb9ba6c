"""A stand-in for TensorRT's execution context, and an opened plan that runs on it.

The stand-in for CUDA keeps "device" memory in host memory, so tests see whether addresses, shapes
and copies are right; what happens on a real GPU is proved there (docs/running.md).
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from engines.backends._engine_base import EngineSpec
from engines.backends._trt.engine import TrtEngine
from engines.backends._trt.log import Listener, Message
from engines.contract import Array, OpenOptions
from engines.manifest import TensorSpec
from tests.engines.cuda.fake_cuda import FakeCuda


class FakeContext:
    """An execution context that writes `compute` of the inputs to y, when its stream works.

    It breaks when two threads run it at once.

    Attributes:
        shaped: Names of the inputs whose shapes were set, one entry a call.
        addressed: Names of the tensors whose addresses were set, one entry a call.
        takes_shapes: What `set_input_shape` answers, and so on.
        written: The memory of y after the last run.
    """

    def __init__(self, library: FakeCuda, compute: Callable[..., Array]) -> None:
        self._library, self._compute = library, compute
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._busy = False
        self.shaped: list[str] = []
        self.addressed: list[str] = []
        self.takes_shapes = self.takes_addresses = self.runs = True
        self.unset: list[str] = []
        self.says: Callable[[], None] = lambda: None
        self.waits = False
        self.written: Array = np.empty(0, np.float32)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._shapes[name] = shape
        self.shaped.append(name)
        return self.takes_shapes

    def infer_shapes(self) -> list[str]:
        return self.unset

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        self.addressed.append(name)
        return self.takes_addresses

    def execute_async_v3(self, stream: int) -> bool:
        self.says()
        inputs = {name: self._array(name, shape) for name, shape in self._shapes.items()}
        zeros = {name: np.zeros_like(value) for name, value in inputs.items()}
        y = self._array("y", self._compute(**zeros).shape)

        def kernel() -> None:
            assert not self._busy
            self._busy = True
            result = self._compute(**inputs)
            if self.waits:
                threading.Event().wait(0.001)  # let another thread try
            y[:] = result
            self.written = y
            self._busy = False

        self._library.enqueue(stream, kernel)
        return self.runs

    def _array(self, name: str, shape: tuple[int, ...]) -> Array:
        block = (ctypes.c_float * int(np.prod(shape))).from_address(self._addresses[name])
        return np.ctypeslib.as_array(block).reshape(shape)


SHAPES = {"x": (1, 3), "w": (3, 2), "y": (1, 2)}
X = np.array([[1, 2, 3]], np.float32)


def weight(seed: int) -> dict[str, Array]:
    """Return the feed w of a task."""
    return {"w": np.random.default_rng(seed).normal(size=SHAPES["w"]).astype(np.float32)}


class SilentLog:
    """A logger that hears nothing."""

    def recording(self) -> contextlib.AbstractContextManager[list[Message]]:
        return contextlib.nullcontext([])

    def listen(self) -> Listener:
        return []

    def stop(self, listener: Listener) -> None:
        pass


class FakePlan:
    """An opened plan that computes y = x w."""

    def __init__(self, options: OpenOptions | None = None) -> None:
        self.library = FakeCuda()
        self.context = FakeContext(self.library, lambda x, w: x @ w)
        specs = {n: TensorSpec(name=n, shape=s, dtype="float32") for n, s in SHAPES.items()}
        self.engine = TrtEngine(
            self.library.opened(),
            EngineSpec(name="plan", inputs=(specs["x"], specs["w"]), outputs=(specs["y"],)),
            self.context,
            owners=(object(), object()),
            log=SilentLog(),
            options=options or OpenOptions(),
        )

    def run(self, feeds: Any) -> Array:
        return self.engine.run({"x": X, **feeds})["y"]
