from __future__ import annotations

from types import ModuleType, SimpleNamespace
from typing import Any

from engines.backends._trt_log import Message, complaints, kernel_list, recorder

LAYERS = """some heading
Name: __myl_Conc_myl0_0, LayerType: kgen, Inputs: [ { Name: a, Datatype: Half } ]
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


def test_kernels_are_counted_without_signal_and_wait() -> None:
    kernels = kernel_list([Message("VERBOSE", LAYERS), Message("ERROR", "nothing")])

    assert kernels.names == ("__myl_Conc_myl0_0", "qkv_myl0_1", "_gemm_mha_v2_myl0_3")
    assert kernels.fused_attentions == 1
    assert kernels.as_settings() == {
        "kernels": "3",
        "fused_attentions": "1",
        "kernel_types": "gemm 1, kgen 2",
    }


def test_a_log_without_layers_gives_no_counts() -> None:
    assert kernel_list([Message("VERBOSE", "no layers")]).as_settings() == {}


def test_complaints_put_errors_first_and_drop_source_lines() -> None:
    messages = [
        Message("WARNING", "slow"),
        Message("VERBOSE", "chatter"),
        Message("ERROR", "Error Code 1: bad\n layer In build at /_src/x.cpp:12"),
        Message("ERROR", "ModelImporter.cpp:140: While parsing node number 0"),
        Message("WARNING", "slow"),
    ]

    assert complaints(messages) == ("Error Code 1: bad layer; While parsing node number 0; slow")


def test_complaints_are_limited() -> None:
    messages = [Message("ERROR", f"number {index}") for index in range(9)]

    assert complaints(messages, limit=2) == "number 0; number 1; and 7 more"
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
