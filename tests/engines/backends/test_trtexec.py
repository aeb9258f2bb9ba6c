from __future__ import annotations

from pathlib import Path

from engines.backends._trtexec import trtexec_line


def test_the_line_of_tensorrt() -> None:
    line = trtexec_line(
        Path("a model.onnx"),
        Path("a.plan"),
        module="tensorrt",
        compute_capabilities=("8.7",),
        optimization_level=4,
        workspace_bytes=2**30,
        shapes={"image": ((1, 3, 8, 8), (4, 3, 8, 8))},
    )

    assert line == (
        "trtexec '--onnx=a model.onnx' --saveEngine=a.plan --stronglyTyped --noTF32 "
        "--maxAuxStreams=0 --profilingVerbosity=detailed --skipInference "
        "--builderOptimizationLevel=4 --memPoolSize=workspace:1024M "
        "--minShapes=image:1x3x8x8 --optShapes=image:4x3x8x8 --maxShapes=image:4x3x8x8"
    )


def test_the_line_of_tensorrt_rtx() -> None:
    line = trtexec_line(
        Path("a.onnx"), Path("a.plan"), module="tensorrt_rtx", compute_capabilities=("8.6", "12.0")
    )

    assert line == (
        "tensorrt_rtx --onnx=a.onnx --saveEngine=a.plan --noTF32 --maxAuxStreams=0 "
        "--profilingVerbosity=detailed --skipInference --computeCapabilities=86,120"
    )


def test_the_line_of_a_weakly_typed_build() -> None:
    line = trtexec_line(
        Path("a.onnx"),
        Path("a.plan"),
        module="tensorrt",
        weak_flags=("FP16", "INT8"),
        float32_layers=("blocks/6/merge/Mul", "blocks/6/merge/ArgMax"),
    )

    layers = "blocks/6/merge/Mul:fp32,blocks/6/merge/ArgMax:fp32"
    assert line == (
        "trtexec --onnx=a.onnx --saveEngine=a.plan --fp16 --int8 --precisionConstraints=obey "
        f"--layerPrecisions={layers} --layerOutputTypes={layers} --noTF32 "
        "--maxAuxStreams=0 --profilingVerbosity=detailed --skipInference"
    )


def test_a_weakly_typed_build_of_float32_has_no_flag_of_its_own() -> None:
    line = trtexec_line(Path("a.onnx"), Path("a.plan"), module="tensorrt", weak_flags=())

    assert line.startswith("trtexec --onnx=a.onnx --saveEngine=a.plan --noTF32 ")
