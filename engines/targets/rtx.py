"""TensorRT-RTX: plans for desktop GPUs, built ahead of time on a machine without one."""

from engines.targets import Target

TARGET = Target(
    name="rtx",
    summary="TensorRT-RTX, built ahead of time without a GPU",
    backend="trt",
    module="tensorrt_rtx",
    suffix=".plan",
    opset=20,
    attention_scale="split",
    last_block="all-tokens",
    precisions=("fp32", "fp16", "bf16", "int8", "fp8"),
    compute_capabilities=("8.0", "8.6", "8.9", "12.0"),
    sources=(
        "compute capabilities: what TensorRT-RTX builds for by default; Turing (7.5) must be "
        "named and is better built alone (NVIDIA, CPU-Only AOT and TensorRT-RTX Engines)",
    ),
)
