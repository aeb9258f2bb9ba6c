"""Feeds that stay on the device: a switch between tasks changes addresses and copies nothing."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from engines.cuda.device import DeviceArray
from engines.errors import EngineError, InputError
from tests.engines.backends.trt.fake_context import FakePlan, X, weight


@pytest.fixture
def plan() -> Iterator[FakePlan]:
    opened = FakePlan()
    with opened.engine:
        yield opened


def test_a_switch_is_a_change_of_one_address(plan: FakePlan) -> None:
    one, two = (plan.engine.place(weight(seed)) for seed in (1, 2))
    plan.run(one)
    before = plan.library.copies
    plan.context.addressed.clear()
    plan.context.shaped.clear()

    np.testing.assert_allclose(plan.run(two), X @ weight(2)["w"], rtol=1e-6)
    assert plan.context.addressed == ["w"]
    assert plan.context.shaped == []
    assert plan.library.copies - before == 2  # the image up, the logits down
    plan.context.addressed.clear()
    plan.run(two)
    plan.run(one)
    assert plan.context.addressed == []  # each task has its graph now


def test_feeds_of_the_host_and_of_the_device_take_turns(plan: FakePlan) -> None:
    placed = plan.engine.place(weight(1))
    for seed, feeds in ((1, placed), (2, weight(2)), (1, placed), (3, weight(3))):
        np.testing.assert_allclose(plan.run(feeds), X @ weight(seed)["w"], rtol=1e-6)


def test_bound_runs_keep_their_own_feeds(plan: FakePlan) -> None:
    bound = []
    for seed in (1, 2):
        bound.append(plan.engine.bind({"x": X, **plan.engine.place(weight(seed))}))
    gc.collect()  # nothing but the bound runs refers to the weights
    for place in (0, 1, 0):
        bound[place]()
        np.testing.assert_allclose(plan.context.written, X @ weight(place + 1)["w"], rtol=1e-6)


def test_memory_is_given_back_when_nobody_refers_to_it(plan: FakePlan) -> None:
    placed: Any = plan.engine.place(weight(1))
    array = placed["w"]
    assert isinstance(array, DeviceArray) and array.nbytes == 24
    assert array.address in plan.library.blocks
    address = array.address
    del placed, array
    gc.collect()
    assert address not in plan.library.blocks


def test_closing_gives_placed_memory_back_once() -> None:
    opened = FakePlan()
    placed = opened.engine.place(weight(1))
    opened.run(placed)
    opened.engine.close()
    assert not opened.library.blocks
    del placed
    gc.collect()
    with pytest.raises(EngineError, match="the engine is closed"):
        opened.engine.place(weight(1))


def test_threads_wait_for_each_other_and_get_their_own_answers(plan: FakePlan) -> None:
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
def test_wrong_feeds_are_not_placed(plan: FakePlan, feeds: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        plan.engine.place(feeds)
    assert not plan.library.blocks


def test_an_address_that_is_not_taken_is_an_error(plan: FakePlan) -> None:
    placed = plan.engine.place(weight(1))
    plan.run(placed)
    plan.context.takes_addresses = False
    with pytest.raises(EngineError, match="does not take the memory of 'w'"):
        plan.run(plan.engine.place(weight(2)))
