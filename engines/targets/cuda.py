"""ONNX Runtime on an NVIDIA GPU."""

from engines.targets import Target

TARGET = Target(
    name="cuda",
    summary="ONNX Runtime on an NVIDIA GPU (onnxruntime-gpu)",
    backend="ort",
    module="onnxruntime",
    suffix=".onnx",
    opset=20,
    attention_scale="folded",
    last_block="class-token",
    precisions=("fp32", "fp16"),
    sources=(
        "opset 20 is the first with the Gelu operator (ONNX operator changelog)",
        "scale and last block as on the CPU: not measured on a GPU yet",
    ),
)
