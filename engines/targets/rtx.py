"""TensorRT-RTX: plans for desktop GPUs, built ahead of time on a machine without one."""

from engines.precisions import BF16, FP8, FP16, FP32, INT8
from engines.targets import TENSOR_CORE_TILE, Target

TARGET = Target(
    name="rtx",
    summary="TensorRT-RTX, built ahead of time without a GPU",
    backend="trt",
    module="tensorrt_rtx",
    suffix=".plan",
    opset=20,
    opset_ceiling=23,
    attention_scale="split",
    last_block="all-tokens",
    tile=TENSOR_CORE_TILE,
    precisions=(FP32, FP16, BF16, INT8, FP8),
    compute_capabilities=("8.0", "8.6", "8.9", "12.0", "12.1"),
    optimization_level=3,
    sources=(
        "optimization level 3 is the builder's own default in every version; plans name it",
        "compute capabilities: TensorRT-RTX builds for 8.0 and later unless told otherwise; Turing "
        "(7.5) must be named and is better built alone (NVIDIA, CPU-Only AOT and TensorRT-RTX "
        "Engines); a ViT-B/16 plan for all five is as large and as quick to build as for one "
        "(measured, TensorRT-RTX 1.7.1)",
        "opset 20 is the first with the Gelu operator (ONNX operator changelog)",
        "opset ceiling: TensorRT-RTX 1.7.1 builds the frozen graph in opsets 17 to 23, the newest "
        "that is written here",
        "attention scale: a ViT-B/16 in FP16 had 112 kernels when split, 134 when folded into the "
        "query weights (measured with an earlier form of the merge, TensorRT-RTX 1.7.1)",
        "last block: a merged ViT-B/16 in FP16 has 109 kernels and 12 fused attentions with all "
        "tokens, 111 and 12 with the class token alone, whose attention is fused as a gemv "
        "(measured, TensorRT-RTX 1.7.1)",
    ),
)
