"""Opening and running a plan, with stand-ins for TensorRT and for the CUDA library.

The stand-ins keep "device" memory in host memory and compute y = 2 x, so the tests see whether
addresses, shapes and copies are right. None of this has run on hardware.
"""

from __future__ import annotations

import enum
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import engines
from engines.backends import trt as backend
from engines.backends._trt import opening
from engines.backends._trt.log import recorder
from engines.contract import OpenOptions
from engines.errors import (
    EngineError,
    FpetError,
    InputError,
    MissingDependencyError,
    TrustError,
    UsageError,
)
from engines.manifest import Manifest, Parent, Runtime, TensorSpec, read_manifest, write_manifest
from tests.engines.backends.trt.fake_context import FakeContext
from tests.engines.cuda.fake_cuda import FakeCuda

PLAN = b"plan" * 32
Images = NDArray[np.float32]


class Mode(enum.Enum):
    NONE, INPUT, OUTPUT = range(3)


class Validity(enum.Enum):
    VALID, SUBOPTIMAL, INVALID = range(3)


class FakeTrtEngine:
    def __init__(self, context: FakeContext, dtype: str) -> None:
        self.context, self.dtype = context, dtype
        self.num_io_tensors = 2

    def create_execution_context(self) -> FakeContext:
        return self.context

    def get_tensor_name(self, index: int) -> str:
        return "xy"[index]

    def get_tensor_mode(self, name: str) -> Mode:
        return Mode.INPUT if name == "x" else Mode.OUTPUT

    def get_tensor_dtype(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(name=self.dtype)

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (-1, 3)


class Machine:
    """A board with TensorRT; its attributes are what the tests change."""

    def __init__(self) -> None:
        self.library = FakeCuda()
        self.context = FakeContext(self.library, lambda x: 2 * x)
        self.dtype = "FLOAT"
        self.log_on_failure: str | None = None
        self.validity: tuple[Validity, int] | None = None
        self.read: list[bytes] = []
        self.host_code: list[bool] = []

    def module(self, name: str) -> ModuleType:
        machine = self

        class FakeRuntime:
            engine_host_code_allowed = True

            def __init__(self, log: Any) -> None:
                self.log = log

            def deserialize_cuda_engine(self, content: bytes) -> FakeTrtEngine | None:
                machine.read.append(content)
                machine.host_code.append(self.engine_host_code_allowed)
                if machine.log_on_failure is None:
                    return FakeTrtEngine(machine.context, machine.dtype)
                self.log.log(SimpleNamespace(name="ERROR"), machine.log_on_failure)
                return None

        class FakeRtxRuntime(FakeRuntime):
            engine_header_size = 64

            def get_engine_validity(self, header: bytes) -> tuple[Validity, int]:
                assert len(header) == 64
                return machine.validity or (Validity.VALID, 0)

        module: Any = ModuleType(name)
        module.__version__ = "10.3.0"
        module.ILogger = type("ILogger", (), {})
        module.Builder = object
        module.TensorIOMode = Mode
        module.EngineValidity = Validity
        module.Runtime = FakeRtxRuntime if name == "tensorrt_rtx" else FakeRuntime
        return module  # type: ignore[no-any-return]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    board = Machine()
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, board.module(name))
    monkeypatch.setattr(opening, "open_cuda", board.library.opened)
    monkeypatch.setattr("engines.backends._trt.log._RECORDERS", {})
    return board


def write_plan(folder: Path, **runtime: Any) -> Path:
    path = folder / "model.tensorrt.plan"
    path.write_bytes(PLAN)
    settings: dict[str, Any] = {
        "flavour": "tensorrt",
        "version": "10.3.0",
        "compute_capabilities": ("8.6",),
        **runtime,
    }
    write_manifest(
        path,
        Manifest(
            kind="engine",
            file=path.name,
            inputs=(TensorSpec(name="x", shape=("batch", 3), dtype="float32"),),
            outputs=(TensorSpec(name="y", shape=("batch", 3), dtype="float32"),),
            precision="fp32",
            opset=20,
            target="tensorrt",
            weights="random",
            batch_range=(1, 4),
            runtime=Runtime(**settings),
            parents=(Parent(role="graph", file="model.onnx", sha256="00"),),
        ),
    )
    return path


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    return write_plan(tmp_path)


def images(batch: int, start: int = 0) -> dict[str, Images]:
    return {"x": np.arange(start, start + batch * 3, dtype=np.float32).reshape(batch, 3)}


def test_a_plan_runs_at_every_batch_of_its_range(machine: Machine, plan: Path) -> None:
    with engines.open(plan) as engine:
        for batch in (1, 4, 2, 2):
            outputs = engine.run(images(batch, start=batch))
            assert np.array_equal(outputs["y"], 2 * images(batch, start=batch)["x"])


def test_results_of_two_runs_do_not_share_memory(machine: Machine, plan: Path) -> None:
    with engines.open(plan) as engine:
        first = engine.run(images(1))["y"]
        engine.run(images(1, start=9))

    assert first.tolist() == [[0, 2, 4]]


def test_memory_of_an_earlier_shape_is_given_back(machine: Machine, plan: Path) -> None:
    with engines.open(plan) as engine:
        for batch in (1, 2, 3, 4):
            engine.run(images(batch))

        assert len(machine.library.blocks) == len(machine.library.host_blocks) == 2


def test_a_bound_run_copies_nothing_and_sets_nothing_anew(machine: Machine, plan: Path) -> None:
    with engines.open(plan) as engine:
        run_once = engine.bind(images(2))
        run_once()
        copies, addressed = machine.library.copies, len(machine.context.addressed)
        run_once()

        assert (machine.library.copies, len(machine.context.addressed)) == (copies, addressed)
        assert machine.context.written.tolist() == [[0, 2, 4], [6, 8, 10]]


def test_a_run_between_bound_runs_does_not_disturb_them(machine: Machine, plan: Path) -> None:
    with engines.open(plan) as engine:
        run_once = engine.bind(images(2))
        run_once()
        engine.run(images(4, start=50))
        run_once()

        assert machine.context.written.tolist() == [[0, 2, 4], [6, 8, 10]]


def test_closing_gives_everything_back_and_may_be_repeated(machine: Machine, plan: Path) -> None:
    engine = engines.open(plan)
    run_once = engine.bind(images(2))
    engine.run(images(1))
    engine.close()
    engine.close()

    assert machine.library.left == 0
    with pytest.raises(EngineError, match="engine is closed"):
        engine.run(images(1))
    with pytest.raises(EngineError, match="engine is closed"):
        run_once()


def test_a_wrong_feed_is_refused(machine: Machine, plan: Path) -> None:
    with engines.open(plan) as engine, pytest.raises(InputError, match="batch = 5, wanted 1 to 4"):
        engine.run(images(5))


def test_host_code_in_a_plan_is_not_allowed(machine: Machine, plan: Path) -> None:
    engines.open(plan).close()

    assert machine.host_code == [False]


def test_an_engine_describes_itself(machine: Machine, plan: Path) -> None:
    with engines.open(plan, options=OpenOptions(name="mine")) as engine:
        assert engine.name == "mine"
        assert engine.describe() == {
            "runtime": "tensorrt",
            "version": "10.3.0",
            "driver": "13.0",
            "compute_capability": "8.6",
            "cuda_graph": "yes",
            "host_memory": "page-locked",
        }


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"version": "10.16.0"}, r"for version 10\.16\.0, this is 10\.3\.0"),
        ({"machine": "sparc"}, "for CPU sparc, this is"),
        ({"compute_capabilities": ("8.7",)}, r"compute capability 8\.7, this device is 8\.6"),
        ({"flavour": "onnxruntime"}, "says that onnxruntime built it, not TensorRT"),
    ],
)
def test_a_plan_of_elsewhere_never_reaches_tensorrt(
    machine: Machine, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    plan = write_plan(tmp_path, **changes)

    with pytest.raises(TrustError, match=words) as caught:
        engines.open(plan)

    assert machine.read == []
    alone = "build it again from its graph (model.onnx does not lie beside it)"
    assert caught.value.fix == alone
    graph = plan.with_name("model.onnx")
    graph.touch()
    with pytest.raises(TrustError, match=words) as caught:
        engines.open(plan)
    again = f"fpet-export build {graph} --target tensorrt -o {plan} --force"
    assert caught.value.fix == f"build it again: {again}"


def test_a_plan_of_tensorrt_rtx_for_other_gpus_says_how_to_build_for_this_one(
    machine: Machine, tmp_path: Path
) -> None:
    plan = write_plan(tmp_path, flavour="tensorrt_rtx", compute_capabilities=("8.9", "12.0"))

    with pytest.raises(TrustError, match=r"8\.9, 12\.0, this device is 8\.6") as caught:
        engines.open(plan)

    assert "build it with 8.6 among the compute capabilities" in caught.value.fix


def test_a_plan_of_tensorrt_rtx_may_come_from_another_system(
    machine: Machine, tmp_path: Path
) -> None:
    plan = write_plan(tmp_path, flavour="tensorrt_rtx", machine="AMD64")

    with engines.open(plan) as engine:
        assert engine.describe()["runtime"] == "tensorrt_rtx"


@pytest.mark.parametrize(
    ("mask", "kind", "words"),
    [
        (1, TrustError, "of another TensorRT-RTX version"),
        (2, TrustError, "no code for this GPU generation"),
        (32, TrustError, "it is damaged"),
        (4, MissingDependencyError, "driver is too old"),
        (16, EngineError, "too little memory"),
        (0, EngineError, "TensorRT gave no reason"),
    ],
)
def test_the_preflight_of_tensorrt_rtx_is_heard(
    machine: Machine, tmp_path: Path, mask: int, kind: type[FpetError], words: str
) -> None:
    machine.validity = (Validity.INVALID, mask)

    with pytest.raises(kind, match=words):
        engines.open(write_plan(tmp_path, flavour="tensorrt_rtx"))

    assert machine.read == []


def test_what_tensorrt_logs_is_in_the_message(machine: Machine, plan: Path) -> None:
    machine.log_on_failure = "Version tag does not match"

    with pytest.raises(EngineError, match="cannot open the plan: Version tag does not match"):
        engines.open(plan)


def test_inputs_that_differ_from_the_manifest_are_refused(machine: Machine, plan: Path) -> None:
    machine.dtype = "HALF"

    with pytest.raises(TrustError, match=r"'x' is an input float16 \(-1, 3\), the manifest says"):
        engines.open(plan)


def test_a_type_that_numpy_lacks_is_refused(machine: Machine, plan: Path) -> None:
    machine.dtype = "BF16"

    with pytest.raises(EngineError, match="type BF16, which numpy cannot hold"):
        engines.open(plan)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda context: setattr(context, "runs", False), "refused to run"),
        (lambda context: setattr(context, "takes_shapes", False), "does not take the shape"),
        (lambda context: setattr(context, "unset", ["y"]), "shapes do not follow for y"),
    ],
)
def test_a_false_answer_is_an_error(
    machine: Machine, plan: Path, spoil: Callable[[FakeContext], None], words: str
) -> None:
    with engines.open(plan) as engine:
        spoil(machine.context)

        with pytest.raises(EngineError, match=words):
            engine.run(images(1))


def test_what_tensorrt_logs_about_a_run_is_in_the_message(machine: Machine, plan: Path) -> None:
    with engines.open(plan) as engine:
        log: Any = recorder(sys.modules["tensorrt"])
        log.log(SimpleNamespace(name="WARNING"), "an earlier run")
        machine.context.runs = False
        machine.context.says = lambda: log.log(
            SimpleNamespace(name="ERROR"), "an illegal memory access was encountered"
        )

        with pytest.raises(EngineError, match="an illegal memory access") as caught:
            engine.run(images(1))

        assert "an earlier run" not in caught.value.what


def test_a_closed_engine_listens_no_more(machine: Machine, plan: Path) -> None:
    engine = engines.open(plan)
    log: Any = recorder(sys.modules["tensorrt"])
    assert len(log._listeners) == 1

    engine.close()
    engine.close()

    assert log._listeners == []


@pytest.mark.parametrize("options", [OpenOptions(rewrites="none"), OpenOptions(provider="cpu")])
def test_options_that_a_plan_cannot_keep_are_refused(
    machine: Machine, plan: Path, options: OpenOptions
) -> None:
    with pytest.raises(UsageError, match="runs on a GPU"):
        engines.open(plan, options=options)


def test_a_plan_whose_manifest_names_no_runtime_is_refused(machine: Machine, plan: Path) -> None:
    with pytest.raises(TrustError, match="executable code"):
        backend.open_engine(plan, None, options=OpenOptions())


@pytest.mark.parametrize("absent", [None, ModuleType("tensorrt")])
def test_a_missing_module_says_that_the_plan_is_fine(
    machine: Machine, plan: Path, monkeypatch: pytest.MonkeyPatch, absent: ModuleType | None
) -> None:
    """An empty module is what a package of type stubs leaves behind."""
    monkeypatch.setitem(sys.modules, "tensorrt", absent)

    with pytest.raises(MissingDependencyError, match="tensorrt cannot be imported") as caught:
        engines.open(plan)

    assert "the plan itself is fine" in caught.value.what
    assert "fpet-export[tensorrt]" in caught.value.fix


def test_a_changed_plan_is_refused_before_anything_else(machine: Machine, plan: Path) -> None:
    plan.write_bytes(PLAN[:-1] + b"!")

    with pytest.raises(TrustError, match="SHA-256"):
        engines.open(plan)

    assert machine.read == []
    assert read_manifest(plan, verify=False).size_bytes == len(PLAN)
