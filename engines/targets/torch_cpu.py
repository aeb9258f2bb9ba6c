"""PyTorch on the CPU of this machine, compiled ahead of time."""

from engines.precisions import FP32
from engines.targets import Target

TARGET = Target(
    name="torch-cpu",
    summary="PyTorch on this machine's CPU, compiled ahead of time (AOTInductor)",
    backend="aoti",
    module="torch",
    suffix=".pt2",
    opset=20,
    opset_ceiling=23,
    attention_scale="folded",
    last_block="class-token",
    precisions=(FP32,),
    sources=(
        "precisions: half precision is emulated on CPUs and slower",
        "opset 20 is the first with the Gelu operator (ONNX operator changelog)",
        "opset ceiling: the newest that is written here; the graph's operators are read one by one",
        "attention scale: with fused attention a scale in the weights costs nothing, one on q and "
        "k is a product of its own",
        "last block as on the other CPU targets: not measured with this runtime",
    ),
)
