"""ONNX Runtime on the CPU of this machine."""

from engines.precisions import FP32, INT8
from engines.targets import Target

TARGET = Target(
    name="cpu",
    summary="ONNX Runtime on this machine's CPU",
    backend="ort",
    module="onnxruntime",
    suffix=".onnx",
    opset=20,
    opset_ceiling=21,
    attention_scale="folded",
    last_block="class-token",
    precisions=(FP32, INT8),
    integers="gemm",
    sources=(
        "precisions: half precision is emulated on CPUs and slower; integer products take 0.24 "
        "to 0.30 of a plain ViT-B/16 in float32 (ONNX Runtime 1.31.1, 2 cores with VNNI, paired "
        "runs at batch 1 and 8)",
        "opset 20 is the first with the Gelu operator (ONNX operator changelog)",
        "opset ceiling: ONNX Runtime 1.20.0 opens the frozen graph in opsets 17 to 21, not in 22",
        "attention scale: no difference, 0.998 folded against split (merged ViT-B/16, batch 1, "
        "ONNX Runtime 1.31.1, 2 cores with AVX-512, median of 25 paired runs on a busy machine)",
        "INT8 weights: a CPU without VNNI clips sums of products with weights beyond 64, unless "
        "session.x64quantprecision makes them unsigned, which is set where that happens (ONNX "
        "Runtime 1.31.1 on an emulated Haswell, 1048544 in place of 2072640 without, exact with)",
        "last block: all tokens take 1.05 of the class token alone (the same measurement)",
    ),
)
