from __future__ import annotations

from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from engines.backends._trt.log import Message, complaints, kernels_of, nodes_of, recorder
from engines.fusion.kernels import Kernel, Tensor

GOLDEN = Path(__file__).parents[3] / "golden"
ONE_LINE = (
    "Name: blocks/0/fc1/MatMul_myl0_8, LayerType: gemm, Inputs: [ { Name: x, Dimensions: "
    "[-1,17,64], "
    "Strides: [1088,64,1], StrideOrder: [2,1,0], Datatype: Int8, Format: (Linear) Row major linear "
    "format }, { Name: y, Dimensions: [], Strides: [], StrideOrder: [], Datatype: Half, Format: "
    "(Arbitrary) Format with stride order = [1,2,0] }], Constants: [], Outputs: [ { Name: z, "
    "Dimensions: [1,17,128], Strides: [2176,128,1], StrideOrder: [2,1,0], Datatype: Half, Format: "
    "(Linear) Row major linear format }], TacticName: stub, StreamId: 0, Metadata: [ONNX Layer: "
    "blocks/0/fc1/MatMul][ONNX Layer: blocks/0/fc1/Add]"
)
LAYERS = """some heading
Name: __myl_Conc_myl0_0, LayerType: kgen, Inputs: []
Name: qkv_myl0_1, LayerType: gemm, Inputs: []
Name: wait_2, LayerType: wait, Inputs: []
Name: _gemm_mha_v2_myl0_3, LayerType: kgen, Metadata: [ONNX Layer: block0.softmax]
Name: signal_4, LayerType: signal, Inputs: []
"""


class BareLogger:
    """Stands in for tensorrt.ILogger."""


def fake_module(name: str) -> Any:
    module = ModuleType(name)
    module.ILogger = BareLogger  # type: ignore[attr-defined]
    return module


def severity(name: str) -> SimpleNamespace:
    return SimpleNamespace(name=name)


def test_pseudo_layers_that_order_streams_are_no_kernels() -> None:
    kernels = kernels_of([Message("VERBOSE", LAYERS), Message("ERROR", "nothing")])

    assert [(kernel.name, kernel.kind) for kernel in kernels] == [
        ("__myl_Conc_myl0_0", "kgen"),
        ("qkv_myl0_1", "gemm"),
        ("_gemm_mha_v2_myl0_3", "kgen"),
    ]


def test_a_line_gives_tensors_with_type_and_shape_and_the_nodes() -> None:
    assert kernels_of([Message("VERBOSE", ONE_LINE)]) == (
        Kernel(
            name="blocks/0/fc1/MatMul_myl0_8",
            kind="gemm",
            inputs=(
                Tensor(name="x", dtype="Int8", shape=(-1, 17, 64)),
                Tensor(name="y", dtype="Half", shape=()),
            ),
            outputs=(Tensor(name="z", dtype="Half", shape=(1, 17, 128)),),
            nodes=("blocks/0/fc1/MatMul", "blocks/0/fc1/Add"),
        ),
    )


@pytest.mark.parametrize("separator", ["", "\x1e", "\x1f"])
def test_nodes_are_listed_once_whatever_stands_between_them(separator: str) -> None:
    metadata = separator.join(f"[ONNX Layer: {name}]" for name in ("a/Add", "b[0]/Mul", "a/Add"))

    assert nodes_of(metadata) == ("a/Add", "b[0]/Mul")


@pytest.mark.parametrize("kind", ["fp16", "int8"])
def test_every_line_of_a_real_build_is_read_whole(kind: str) -> None:
    """Each brace opens one tensor, each bracketed name is one node."""
    text = (GOLDEN / f"fusion_{kind}.log").read_text("utf-8")

    kernels = kernels_of([Message("VERBOSE", text)])

    assert len(kernels) == len(text.splitlines())
    found = [t for k in kernels for t in (*k.inputs, *k.outputs, *k.constants)]
    assert len(found) == text.count("{ Name: ")
    assert {tensor.dtype for tensor in found} <= {"Float", "Half", "Int8", "Int32", "Int64"}
    assert all(tensor.shape for tensor in found)
    assert sum(len(kernel.nodes) for kernel in kernels) == text.count("[ONNX Layer: ")


def test_a_log_without_layers_gives_no_kernels() -> None:
    assert kernels_of([Message("VERBOSE", "no layers")]) == ()


def test_complaints_put_errors_first_and_drop_source_lines() -> None:
    messages = [
        Message("WARNING", "slow"),
        Message("VERBOSE", "chatter"),
        Message("ERROR", "Error Code 1: bad\n layer In build at /_src/x.cpp:12"),
        Message("ERROR", "ModelImporter.cpp:140: While parsing node number 0"),
        Message("WARNING", "slow"),
    ]

    assert complaints(messages) == ("Error Code 1: bad layer; While parsing node number 0; slow")


def test_no_complaint_is_left_out() -> None:
    messages = [Message("ERROR", f"number {index}") for index in range(90)]

    assert complaints(messages).split("; ") == [f"number {index}" for index in range(90)]
    assert complaints([]) == "TensorRT gave no reason"


def test_there_is_one_recorder_a_module() -> None:
    assert recorder(fake_module("trt_a")) is recorder(fake_module("trt_a"))
    assert recorder(fake_module("trt_a")) is not recorder(fake_module("trt_b"))


def test_a_recording_holds_what_arrives_while_it_is_open() -> None:
    log: Any = recorder(fake_module("trt_c"))

    log.log(severity("ERROR"), "before")
    with log.recording() as outer:
        log.log(severity("WARNING"), "first")
        with log.recording() as inner:
            log.log(severity("VERBOSE"), "Name: x, LayerType: gemm")
            log.log(severity("VERBOSE"), "chatter")
        log.log(severity("ERROR"), "last")
    log.log(severity("ERROR"), "after")

    assert [message.text for message in outer] == ["first", "Name: x, LayerType: gemm", "last"]
    assert [message.text for message in inner] == ["Name: x, LayerType: gemm"]
