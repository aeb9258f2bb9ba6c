"""ONNX Runtime on an NVIDIA GPU."""

from engines.precisions import FP16, FP32
from engines.targets import TENSOR_CORE_TILE, Target

TARGET = Target(
    name="cuda",
    summary="ONNX Runtime on an NVIDIA GPU (onnxruntime-gpu)",
    backend="ort",
    module="onnxruntime",
    suffix=".onnx",
    opset=20,
    opset_ceiling=21,
    attention_scale="folded",
    last_block="class-token",
    tile=TENSOR_CORE_TILE,
    precisions=(FP32, FP16),
    sources=(
        "opset 20 is the first with the Gelu operator (ONNX operator changelog)",
        "opset ceiling: ONNX Runtime 1.20.0 opens the frozen graph in opsets 17 to 21, not in 22",
        "scale and last block as on the CPU: not measured on a GPU yet",
    ),
)
