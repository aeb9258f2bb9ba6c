"""PyTorch on an NVIDIA GPU, compiled ahead of time."""

from engines.precisions import BF16, FP16, FP32
from engines.targets import TENSOR_CORE_TILE, Target

TARGET = Target(
    name="torch-cuda",
    summary="PyTorch on this machine's NVIDIA GPU, compiled ahead of time (AOTInductor)",
    backend="aoti",
    module="torch",
    suffix=".pt2",
    opset=20,
    opset_ceiling=23,
    attention_scale="folded",
    last_block="class-token",
    tile=TENSOR_CORE_TILE,
    precisions=(FP32, FP16, BF16),
    sources=(
        "opset 20 is the first with the Gelu operator (ONNX operator changelog)",
        "opset ceiling: the newest that is written here; the graph's operators are read one by one",
        "attention scale: with fused attention a scale in the weights costs nothing, one on q and "
        "k is a product of its own",
        "last block: only what the head reads, as on the target cuda; not measured on a GPU yet",
    ),
)
