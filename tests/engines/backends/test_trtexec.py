from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from engines.backends._trt_request import Request
from engines.backends._trt_weak import WeakTyping
from engines.backends._trtexec import trtexec_line

ONNX, PLAN = Path("a.onnx"), Path("a.plan")
PLAIN = Request(
    shapes={}, batches=None, compute_capabilities=(), optimization_level=None, workspace_bytes=None
)
COMMON = "--noTF32 --maxAuxStreams=0 --profilingVerbosity=detailed --skipInference"


def test_the_line_of_tensorrt() -> None:
    request = dataclasses.replace(
        PLAIN,
        optimization_level=4,
        workspace_bytes=2**30,
        timing_cache=Path("my cache"),
        shapes={"image": ((1, 3, 8, 8), (2, 3, 8, 8), (4, 3, 8, 8))},
    )

    line = trtexec_line(Path("a model.onnx"), PLAN, request, module="tensorrt", version="10.3.0")

    assert line == (
        f"trtexec '--onnx=a model.onnx' --saveEngine=a.plan --stronglyTyped {COMMON} "
        "--builderOptimizationLevel=4 --memPoolSize=workspace:1024M "
        "'--timingCacheFile=my cache' "
        "--minShapes=image:1x3x8x8 --optShapes=image:2x3x8x8 --maxShapes=image:4x3x8x8"
    )


@pytest.mark.parametrize(
    ("version", "asks"), [(None, True), ("10.0", True), ("10.16.2", True), ("11.4.1", False)]
)
def test_strong_typing_is_asked_for_where_it_is_a_choice(version: str | None, asks: bool) -> None:
    line = trtexec_line(ONNX, PLAN, PLAIN, module="tensorrt", version=version)

    assert ("--stronglyTyped" in line) == asks


def test_the_line_of_tensorrt_rtx() -> None:
    request = dataclasses.replace(PLAIN, compute_capabilities=("8.6", "12.0"))

    line = trtexec_line(ONNX, PLAN, request, module="tensorrt_rtx", version="1.7.1.116")

    assert line == (
        f"tensorrt_rtx --onnx=a.onnx --saveEngine=a.plan {COMMON} --computeCapabilities=86,120"
    )


def test_the_line_of_a_weakly_typed_build() -> None:
    request = dataclasses.replace(PLAIN, weak=WeakTyping("int8", "match"))

    line = trtexec_line(
        ONNX,
        PLAN,
        request,
        module="tensorrt",
        version="8.6.2",
        float32_layers=("blocks/6/merge/Mul", "blocks/6/merge/ArgMax"),
    )

    layers = "blocks/6/merge/Mul:fp32,blocks/6/merge/ArgMax:fp32"
    assert line == (
        "trtexec --onnx=a.onnx --saveEngine=a.plan --fp16 --int8 --precisionConstraints=obey "
        f"--layerPrecisions={layers} --layerOutputTypes={layers} {COMMON}"
    )


def test_a_weakly_typed_build_of_float32_has_no_flag_of_its_own() -> None:
    request = dataclasses.replace(PLAIN, weak=WeakTyping("fp32", "match"))

    line = trtexec_line(ONNX, PLAN, request, module="tensorrt", version="8.6.2")

    assert line == f"trtexec --onnx=a.onnx --saveEngine=a.plan {COMMON}"
