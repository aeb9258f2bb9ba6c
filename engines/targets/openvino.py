"""OpenVINO on the CPU of this machine."""

from engines.precisions import FP32, INT8
from engines.targets import Target

TARGET = Target(
    name="openvino",
    summary="OpenVINO on this machine's CPU, the fastest there",
    backend="ov",
    module="openvino",
    suffix=".onnx",
    opset=20,
    opset_ceiling=23,
    attention_scale="folded",
    last_block="class-token",
    precisions=(FP32, INT8),
    integers="gemm",
    int8_weights="reduced",
    sources=(
        "precisions: half precision is emulated on CPUs and slower; integer products take 0.24 "
        "to 0.30 of a plain ViT-B/16 in float32 (ONNX Runtime 1.31.1, 2 cores with VNNI, paired "
        "runs at batch 1 and 8)",
        "opset 20 is the first with the Gelu operator (ONNX operator changelog)",
        "opset ceiling: OpenVINO 2024.4.0 compiles the frozen graph in opsets 17 to 23, the newest "
        "that is written here",
        "attention scale: no difference, split takes 1.004 of folded (merged ViT-B/16, batch 1, "
        "OpenVINO 2026.4.1, 2 cores with AVX-512, median of 25 paired runs on a busy machine)",
        "INT8 weights: on a CPU without VNNI, OpenVINO clips sums of products with weights beyond "
        "64 and has no setting against it (OpenVINO 2026.4.1 on an emulated Haswell: 1048544 in "
        "place of 1060800 with weights of 65, exact with 64)",
        "last block: all tokens take 1.04 of the class token alone (the same measurement)",
    ),
)
