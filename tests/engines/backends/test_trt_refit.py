"""Refitting, with a stand-in for TensorRT's refitter that keeps to its rules."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from engines.backends._trt_engine import TrtEngine
from engines.backends._trt_refit import refit_plan
from engines.engine import OpenOptions
from engines.errors import EngineError, InputError, UsageError
from engines.manifest import TensorSpec
from tests.engines.backends.test_trt_placed import SilentLog
from tests.engines.fake_cuda import FakeCuda

VALUES = {"w": np.ones((2, 3), np.float32), "b": np.zeros(3, np.float32)}


class Plan:
    """A plan with two weights that were merged into one kernel."""

    refittable = True

    def __init__(self) -> None:
        self.weights = dict(VALUES)
        self.works = True


class Refitter:
    """Takes values of the right size and type, and wants all that depend on each other."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.given = plan, dict[str, np.ndarray]()

    def get_all_weights(self) -> list[str]:
        return list(self.plan.weights)

    def set_named_weights(self, name: str, values: np.ndarray) -> bool:
        old = self.plan.weights[name]
        assert values.flags.c_contiguous
        if (values.size, values.dtype) != (old.size, old.dtype):
            return False
        self.given[name] = values
        return True

    def get_missing_weights(self) -> list[str]:
        return sorted(set(self.plan.weights) - set(self.given)) if self.given else []

    def refit_cuda_engine(self) -> bool:
        if self.plan.works:
            self.plan.weights |= self.given
        return self.plan.works


def refit(plan: Plan, weights: dict[str, np.ndarray]) -> None:
    refit_plan(lambda: Refitter(plan), plan, weights, where="plan")


def both(seed: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {n: generator.normal(size=v.shape).astype(np.float32) for n, v in VALUES.items()}


def test_there_and_back() -> None:
    plan = Plan()
    for seed in (1, 2, 1):
        refit(plan, both(seed))
        for name, value in both(seed).items():
            np.testing.assert_array_equal(plan.weights[name], value)


def test_values_are_made_contiguous() -> None:
    plan = Plan()
    turned = np.arange(6, dtype=np.float32).reshape(3, 2).T
    refit(plan, both(1) | {"w": turned})
    np.testing.assert_array_equal(plan.weights["w"], turned)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"w": VALUES["w"], "x": VALUES["w"]}, "the plan has no weights called x"),
        ({"w": VALUES["w"][:1], "b": VALUES["b"]}, "does not take the size or type of w"),
        ({"w": VALUES["w"].astype(np.float16), "b": VALUES["b"]}, "size or type of w"),
        ({"w": VALUES["w"]}, "needs them too: b"),
    ],
)
def test_weights_that_do_not_fit_are_refused(weights: Any, message: str) -> None:
    plan = Plan()
    with pytest.raises(InputError, match=message):
        refit(plan, weights)
    np.testing.assert_array_equal(plan.weights["w"], VALUES["w"])


def test_a_plan_that_cannot_be_refitted_says_what_to_do() -> None:
    plan = Plan()
    plan.refittable = False
    with pytest.raises(UsageError, match="not built to be refitted") as caught:
        refit(plan, both(1))
    assert "fpet-export tasks" in caught.value.fix


def test_a_failure_is_an_error() -> None:
    plan = Plan()
    plan.works = False
    with pytest.raises(EngineError, match="could not refit"):
        refit(plan, both(1))


def test_an_open_plan_refits_itself() -> None:
    plan = Plan()
    spec = TensorSpec(name="x", shape=(1, 2), dtype="float32")
    engine = TrtEngine(
        FakeCuda().opened(), (object(), plan), object(),
        inputs=(spec,), outputs=(spec,), batch_range=None, name="plan", facts={}, log=SilentLog(),
        options=OpenOptions(), make_refitter=lambda: Refitter(plan),
    )  # fmt: skip
    with engine:
        engine.refit(both(3))
    np.testing.assert_array_equal(plan.weights["b"], both(3)["b"])
    with pytest.raises(EngineError, match="closed"):
        engine.refit(both(3))


@pytest.mark.tensorrt
def test_the_real_module_has_these_names() -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx-cu13")
    for name in vars(Refitter):
        if not name.startswith("_"):
            assert hasattr(trt.Refitter, name)
    assert hasattr(trt.ICudaEngine, "refittable")
    assert hasattr(trt.BuilderFlag, "REFIT")
