"""Feeds that stay on the device: a switch between tasks changes addresses and copies nothing."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from engines.backends._engine_base import EngineSpec
from engines.backends._trt.engine import TrtEngine
from engines.backends._trt.log import Listener, Message
from engines.contract import OpenOptions
from engines.cuda.device import DeviceArray
from engines.errors import EngineError, InputError
from engines.manifest import TensorSpec
from tests.engines.cuda.fake_cuda import FakeCuda


class Context:
    """An execution context that writes x w to y; it breaks when two threads run it at once."""

    def __init__(self, library: FakeCuda) -> None:
        self.library = library
        self.addresses: dict[str, int] = {}
        self.set: list[str] = []
        self.shapes: list[str] = []
        self.busy = self.waits = False
        self.takes = True
        self.written = X

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes.append(name)
        return True

    def infer_shapes(self) -> list[str]:
        return []

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        self.set.append(name)
        return self.takes

    def execute_async_v3(self, stream: int) -> bool:
        x, w, y = (self._array(name, shape) for name, shape in SHAPES.items())

        def kernel() -> None:
            assert not self.busy
            self.busy = True
            product = x @ w
            if self.waits:
                threading.Event().wait(0.001)  # let another thread try
            y[:] = product
            self.written = y
            self.busy = False

        self.library.enqueue(stream, kernel)
        return True

    def _array(self, name: str, shape: tuple[int, int]) -> np.ndarray:
        block = (ctypes.c_float * (shape[0] * shape[1])).from_address(self.addresses[name])
        return np.ctypeslib.as_array(block).reshape(shape)


SHAPES = {"x": (1, 3), "w": (3, 2), "y": (1, 2)}
X = np.array([[1, 2, 3]], np.float32)


def weight(seed: int) -> dict[str, np.ndarray]:
    return {"w": np.random.default_rng(seed).normal(size=(3, 2)).astype(np.float32)}


class SilentLog:
    """A logger that hears nothing."""

    def recording(self) -> contextlib.AbstractContextManager[list[Message]]:
        return contextlib.nullcontext([])

    def listen(self) -> Listener:
        return []

    def stop(self, listener: Listener) -> None:
        pass


class Plan:
    """An opened stand-in."""

    def __init__(self, options: OpenOptions | None = None) -> None:
        self.library = FakeCuda()
        self.context = Context(self.library)
        specs = {n: TensorSpec(name=n, shape=s, dtype="float32") for n, s in SHAPES.items()}
        self.engine = TrtEngine(
            self.library.opened(),
            EngineSpec(name="plan", inputs=(specs["x"], specs["w"]), outputs=(specs["y"],)),
            self.context,
            owners=(object(), object()),
            log=SilentLog(),
            options=options or OpenOptions(),
        )

    def run(self, feeds: Any) -> np.ndarray:
        return self.engine.run({"x": X, **feeds})["y"]


@pytest.fixture
def plan() -> Iterator[Plan]:
    opened = Plan()
    with opened.engine:
        yield opened


def test_a_switch_is_a_change_of_one_address(plan: Plan) -> None:
    one, two = (plan.engine.place(weight(seed)) for seed in (1, 2))
    plan.run(one)
    before = plan.library.copies
    plan.context.set.clear()
    plan.context.shapes.clear()

    np.testing.assert_allclose(plan.run(two), X @ weight(2)["w"], rtol=1e-6)
    assert plan.context.set == ["w"]
    assert plan.context.shapes == []
    assert plan.library.copies - before == 2  # the image up, the logits down
    plan.context.set.clear()
    plan.run(two)
    plan.run(one)
    assert plan.context.set == []  # each task has its graph now


def test_there_and_back_gives_the_same_bits(plan: Plan) -> None:
    one, two = (plan.engine.place(weight(seed)) for seed in (1, 2))
    first = plan.run(one)
    assert not np.allclose(plan.run(two), first)
    np.testing.assert_array_equal(plan.run(one), first)


def test_feeds_of_the_host_and_of_the_device_take_turns(plan: Plan) -> None:
    placed = plan.engine.place(weight(1))
    for seed, feeds in ((1, placed), (2, weight(2)), (1, placed), (3, weight(3))):
        np.testing.assert_allclose(plan.run(feeds), X @ weight(seed)["w"], rtol=1e-6)


def test_bound_runs_keep_their_own_feeds(plan: Plan) -> None:
    bound = []
    for seed in (1, 2):
        bound.append(plan.engine.bind({"x": X, **plan.engine.place(weight(seed))}))
    gc.collect()  # nothing but the bound runs refers to the weights
    for place in (0, 1, 0):
        bound[place]()
        np.testing.assert_allclose(plan.context.written, X @ weight(place + 1)["w"], rtol=1e-6)


def test_memory_is_given_back_when_nobody_refers_to_it(plan: Plan) -> None:
    placed: Any = plan.engine.place(weight(1))
    array = placed["w"]
    assert isinstance(array, DeviceArray) and array.nbytes == 24
    assert array.address in plan.library.blocks
    address = array.address
    del placed, array
    gc.collect()
    assert address not in plan.library.blocks


def test_closing_gives_placed_memory_back_once() -> None:
    opened = Plan()
    placed = opened.engine.place(weight(1))
    opened.run(placed)
    opened.engine.close()
    assert not opened.library.blocks
    del placed
    gc.collect()
    with pytest.raises(EngineError, match="the engine is closed"):
        opened.engine.place(weight(1))


def test_threads_wait_for_each_other_and_get_their_own_answers(plan: Plan) -> None:
    wrong: list[int] = []
    plan.context.waits = True

    def work(seed: int) -> None:
        placed = plan.engine.place(weight(seed))
        for _ in range(10):
            if not np.allclose(plan.run(placed), X @ weight(seed)["w"], rtol=1e-6):
                wrong.append(seed)

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []
    assert len(set(plan.library.attached)) == 4  # the device is made current once in each


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({"w": np.zeros((2, 3), np.float32)}, r"'w' has shape \(2, 3\), wanted \(3, 2\)"),
        ({"w": np.zeros((3, 2))}, "'w' has dtype float64"),
        ({"v": np.zeros((3, 2), np.float32)}, "'v' is unexpected"),
    ],
)
def test_wrong_feeds_are_not_placed(plan: Plan, feeds: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        plan.engine.place(feeds)
    assert not plan.library.blocks


def test_an_address_that_is_not_taken_is_an_error(plan: Plan) -> None:
    placed = plan.engine.place(weight(1))
    plan.run(placed)
    plan.context.takes = False
    with pytest.raises(EngineError, match="does not take the memory of 'w'"):
        plan.run(plan.engine.place(weight(2)))
