"""ONNX Runtime on the CPU of this machine."""

from engines.targets import Target

TARGET = Target(
    name="cpu",
    summary="ONNX Runtime on this machine's CPU",
    backend="ort",
    module="onnxruntime",
    suffix=".onnx",
    opset=20,
    attention_scale="folded",
    last_block="class-token",
    precisions=("fp32",),
    sources=("opset 20 is the first with the Gelu operator (ONNX operator changelog)",),
)
