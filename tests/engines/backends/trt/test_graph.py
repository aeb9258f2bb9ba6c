"""CUDA graphs, page-locked memory and the device's clock, on a device with real queues."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest

from engines.backends import _placement
from engines.contract import OpenOptions
from engines.errors import EngineError
from tests.engines.backends.trt.fake_context import SHAPES, FakeContext, FakePlan, X, weight
from tests.engines.cuda.fake_cuda import NS_OF_ONE_TASK, FakeCuda


def launches(library: FakeCuda) -> int:
    return library.calls.count("cudaGraphLaunch")


def test_the_second_run_is_one_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    plan, feeds = FakePlan(), weight(1)
    enqueued: list[int] = []
    execute = plan.context.execute_async_v3

    def counted(stream: int) -> bool:
        enqueued.append(stream)
        return execute(stream)

    monkeypatch.setattr(plan.context, "execute_async_v3", counted)
    with plan.engine:
        for seed in (1, 2, 3):
            x = {"x": X * seed}
            np.testing.assert_allclose(plan.run(feeds | x), seed * X @ feeds["w"], rtol=1e-6)
    assert len(enqueued) == 2  # run once, recorded once
    assert launches(plan.library) == 2
    assert plan.library.left == 0


def test_without_graphs_every_run_is_queued() -> None:
    plan = FakePlan(OpenOptions(cuda_graph=False))
    with plan.engine as engine:
        for seed in (1, 2):
            np.testing.assert_allclose(plan.run(weight(seed)), X @ weight(seed)["w"], rtol=1e-6)
        assert engine.describe()["cuda_graph"] == "no: switched off"
    assert "cudaStreamBeginCapture" not in plan.library.calls
    assert plan.library.left == 0


def test_a_plan_that_cannot_be_recorded_runs_without_a_graph(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan = FakePlan()
    execute = plan.context.execute_async_v3

    def allocates(stream: int) -> bool:
        if plan.library.streams[stream].recorded is not None:
            with pytest.raises(EngineError):
                plan.library.opened().allocate(8)
        return execute(stream)

    monkeypatch.setattr(plan.context, "execute_async_v3", allocates)
    with plan.engine as engine:
        for seed in (1, 2, 3):
            np.testing.assert_allclose(plan.run(weight(seed)), X @ weight(seed)["w"], rtol=1e-6)
        said = engine.describe()["cuda_graph"]
    assert said.startswith("no: CUDA failed: cudaStreamEndCapture returned 901")
    assert plan.library.calls.count("cudaStreamBeginCapture") == 1  # asked once, not at every run
    assert plan.library.left == 0


def test_tensorrt_rtx_is_asked_until_it_may_be_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """It refuses while it compiles kernels for the shapes that it has just met."""
    plan, answers = FakePlan(), [False, False, True]
    monkeypatch.setattr(
        FakeContext, "is_stream_capturable", lambda self, stream: answers.pop(0), raising=False
    )
    with plan.engine as engine:
        for _ in range(4):
            plan.run(weight(1))
        assert launches(plan.library) == 1
        assert engine.describe()["cuda_graph"] == "yes"
    assert answers == []


def test_a_graph_is_never_used_for_another_shape_or_address() -> None:
    plan = FakePlan()
    with plan.engine:
        placed = [plan.engine.place(weight(seed)) for seed in range(3)]
        for seed in (0, 1, 2, 1, 0, 2, 2):
            np.testing.assert_allclose(plan.run(placed[seed]), X @ weight(seed)["w"], rtol=1e-6)
        assert plan.library.calls.count("cudaStreamBeginCapture") == 3
        assert launches(plan.library) == 4
        hosted = weight(9)
        np.testing.assert_allclose(plan.run(hosted), X @ hosted["w"], rtol=1e-6)


def test_only_so_many_graphs_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_placement, "_GRAPHS", 2)
    plan = FakePlan()
    with plan.engine:
        placed = [plan.engine.place(weight(seed)) for seed in range(4)]
        for seed in (0, 1, 2, 3, 0, 1):
            np.testing.assert_allclose(plan.run(placed[seed]), X @ weight(seed)["w"], rtol=1e-6)
            assert len(plan.library.executables) <= 2
    assert plan.library.left == 0


def test_memory_that_the_collector_frees_during_a_capture_does_not_break_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan = FakePlan()
    with plan.engine as engine:
        kept: list[Any] = [plan.engine.place(weight(5))]
        address = kept[0]["w"].address
        execute = plan.context.execute_async_v3

        def collects(stream: int) -> bool:
            if plan.library.streams[stream].recorded is not None:
                kept.clear()
                gc.collect()
                assert address in plan.library.blocks
            return execute(stream)

        monkeypatch.setattr(plan.context, "execute_async_v3", collects)
        plan.run(weight(1))
        assert engine.describe()["cuda_graph"] == "yes"
        assert address not in plan.library.blocks


def test_zero_copy_queues_no_copy_and_holds_no_device_memory() -> None:
    plan = FakePlan(OpenOptions(zero_copy=True))
    with plan.engine as engine:
        for seed in (1, 2):
            np.testing.assert_allclose(plan.run(weight(seed)), X @ weight(seed)["w"], rtol=1e-6)
        assert plan.library.copies == 0
        assert plan.library.blocks == {}
        assert len(plan.library.host_blocks) == len(SHAPES)
        assert engine.describe()["host_memory"] == "zero-copy"
        placed = engine.place(weight(3))  # weights of a task stay in the device's memory
        np.testing.assert_allclose(plan.run(placed), X @ weight(3)["w"], rtol=1e-6)
    assert plan.library.left == 0


@pytest.mark.parametrize("function", ["cudaHostAlloc", "cudaMalloc"])
def test_too_little_memory_leaves_nothing_behind(function: str) -> None:
    plan = FakePlan()
    plan.library.fails[function] = 2
    with plan.engine, pytest.raises(EngineError, match="out of memory") as caught:
        plan.run(weight(1))
    assert "smaller batch" in caught.value.fix
    assert plan.library.left == 0


@pytest.mark.parametrize("cuda_graph", [True, False])
def test_the_devices_clock_sees_the_run_and_not_the_copies(cuda_graph: bool) -> None:
    plan = FakePlan(OpenOptions(cuda_graph=cuda_graph))
    with plan.engine as engine:
        times = engine.device_times_ns({"x": X, **weight(1)}, runs=3)
        assert times == [NS_OF_ONE_TASK] * 3
        assert plan.library.blocks == {} == plan.library.events


def test_ten_thousand_runs_of_many_tasks_leave_what_one_left() -> None:
    """The device counts every object; 40 tasks take turns for 32 places of graphs."""
    plan = FakePlan()
    with plan.engine as engine:
        tasks = [engine.place(weight(seed)) for seed in range(40)]
        bound = engine.bind({"x": X, **tasks[0]})

        def one_round() -> None:
            for task in tasks:
                plan.run(task)
            bound()

        one_round()
        after_one = plan.library.left
        for _ in range(10_000 // len(tasks)):
            one_round()
        assert plan.library.left == after_one
    assert plan.library.left == 0
