"""The inspector's JSON, written by hand in the layout that NVIDIA documents: no GPU was here."""

from __future__ import annotations

import json
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from engines.backends import trt as backend
from engines.backends._trt.builder import Plan
from engines.backends._trt.inspector import kernels_in, kernels_of_plan
from engines.errors import MissingDependencyError
from engines.fusion.kernels import Kernel, Tensor
from tests.engines.cuda.fake_cuda import FakeCuda


def tensor(name: str, kind: str, *shape: int, key: str = "Format/Datatype") -> dict[str, Any]:
    return {"Name": name, "Location": "Device", "Dimensions": list(shape), key: kind}


def layer(name: str, kind: str, inputs: list[Any], outputs: list[Any], nodes: str) -> Any:
    return {
        "Name": name,
        "LayerType": kind,
        "Inputs": inputs,
        "Outputs": outputs,
        "TacticName": f"{name}_0xa3bb",
        "StreamId": 0,
        "Metadata": nodes,
    }


HEADS = [12, 197, 64]
DOCUMENT = {
    "Layers": [
        layer(
            "Reformatting CopyNode for Input Tensor 0 to patches/Conv",
            "Reformat",
            [tensor("images", "Row major linear FP32 format", 1, 3, 224, 224)],
            [tensor("copied", "Channel major FP16 format where channel % 4 == 0", 1, 3, 224, 224)],
            "",
        ),
        layer(
            "_gemm_mha_v2_myl0_5",
            "kgen",
            [tensor(name, "Half", *HEADS) for name in "qkv"],
            [tensor("mixed", "Half", *HEADS)],
            "[ONNX Layer: blocks/0/attn/MatMul]\x1e[ONNX Layer: blocks/0/attn/Softmax]",
        ),
        layer("wait_7", "wait", [], [], ""),
        layer("__mye_nothing", "NoOp", [], [], ""),
    ],
    "Bindings": ["images", "logits"],
}


def test_layers_become_kernels() -> None:
    kernels = kernels_in(json.dumps(DOCUMENT))

    assert kernels == (
        Kernel(
            name="Reformatting CopyNode for Input Tensor 0 to patches/Conv",
            kind="Reformat",
            inputs=(Tensor(name="images", dtype="Float", shape=(1, 3, 224, 224)),),
            outputs=(Tensor(name="copied", dtype="Half", shape=(1, 3, 224, 224)),),
        ),
        Kernel(
            name="_gemm_mha_v2_myl0_5",
            kind="kgen",
            inputs=tuple(Tensor(name=name, dtype="Half", shape=(12, 197, 64)) for name in "qkv"),
            outputs=(Tensor(name="mixed", dtype="Half", shape=(12, 197, 64)),),
            nodes=("blocks/0/attn/MatMul", "blocks/0/attn/Softmax"),
        ),
    )


@pytest.mark.parametrize(
    ("words", "dtype"),
    [
        ("Thirty-two wide channel vectorized row major Int8 format.", "Int8"),
        ("Row major linear FP16 format", "Half"),
        ("Row major linear FP32 format (kLINEAR)", "Float"),
        ("BFloat16", "BFloat16"),
        ("Row major linear BF16 format", "BFloat16"),
        ("FP8", "FP8"),
        ("Row major linear UInt8 format", "UInt8"),
        ("Int32", "Int32"),
        ("N/A due to dynamic shapes", "N/A due to dynamic shapes"),
    ],
)
@pytest.mark.parametrize("key", ["Format/Datatype", "Datatype"])
def test_a_type_is_read_out_of_the_words_around_it(words: str, dtype: str, key: str) -> None:
    document = {"Layers": [layer("a", "kgen", [tensor("x", words, 1, key=key)], [], "")]}

    (kernel,) = kernels_in(json.dumps(document))

    assert kernel.inputs[0].dtype == dtype


@pytest.mark.parametrize(
    "text", ["", "no JSON", "[]", "{}", '{"Layers": ["names", "only"]}', '{"Layers": null}']
)
def test_a_listing_without_details_gives_no_kernels(text: str) -> None:
    assert kernels_in(text) == ()


class Machine:
    """TensorRT on a machine with a GPU, whose log lists no layers."""

    def __init__(self, *, opens: bool = True) -> None:
        self.opens = opens
        self.read: list[bytes] = []

    def module(self) -> Any:
        inspector = SimpleNamespace(
            get_engine_information=lambda form: json.dumps(DOCUMENT) if form == "json" else ""
        )
        engine = SimpleNamespace(create_engine_inspector=lambda: inspector)

        class Runtime:
            def __init__(self, log: Any) -> None:
                self.engine_host_code_allowed = True

            def deserialize_cuda_engine(this, content: bytes) -> Any:  # noqa: N805
                assert not this.engine_host_code_allowed
                self.read.append(content)
                return engine if self.opens else None

        module: Any = ModuleType("tensorrt_of_this_test")
        module.ILogger = type("ILogger", (), {})
        module.Runtime = Runtime
        module.LayerInformationFormat = SimpleNamespace(JSON="json")
        return module


def test_a_plan_is_opened_and_inspected() -> None:
    machine = Machine()

    assert kernels_of_plan(machine.module(), b"plan") == kernels_in(json.dumps(DOCUMENT))
    assert machine.read == [b"plan"]


def test_a_plan_that_does_not_open_lists_nothing() -> None:
    assert kernels_of_plan(Machine(opens=False).module(), b"plan") == ()


def test_the_inspector_is_asked_where_the_log_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "open_cuda", FakeCuda().opened)
    machine = Machine()

    report = backend._fusion(machine.module(), Plan(b"plan", (), {}))

    assert report is not None
    assert report.source == "engine inspector"
    assert report.as_settings()["fused_attentions"] == "1"


def test_a_log_that_lists_kernels_makes_the_inspector_superfluous() -> None:
    machine = Machine()
    listed = kernels_in(json.dumps(DOCUMENT))

    report = backend._fusion(machine.module(), Plan(b"plan", listed, {}))

    assert report is not None
    assert report.source == "verbose log"
    assert machine.read == []


def test_without_a_gpu_and_a_listing_there_is_no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_gpu() -> Any:
        raise MissingDependencyError("no device", where="cuda:0", fix="driver")

    monkeypatch.setattr(backend, "open_cuda", no_gpu)

    assert backend._fusion(Machine().module(), Plan(b"plan", (), {})) is None
