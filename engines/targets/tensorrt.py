"""TensorRT 10.3 to 11 on the GPU or the Jetson board that will run the plan."""

from engines.precisions import BF16, FP8, FP16, FP32, INT8
from engines.targets import TENSOR_CORE_TILE, Target

TARGET = Target(
    name="tensorrt",
    summary="TensorRT on this machine's GPU or Jetson board",
    backend="trt",
    module="tensorrt",
    suffix=".plan",
    opset=20,
    opset_ceiling=20,
    attention_scale="split",
    last_block="all-tokens",
    tile=TENSOR_CORE_TILE,
    precisions=(FP32, FP16, BF16, INT8, FP8),
    optimization_level=3,
    sources=(
        "optimization level 3 is the builder's own default in every version; plans name it",
        "TensorRT 10.0 to 10.8 read opsets 9 to 20, later ones more (onnx-tensorrt, operators.md)",
        "scale and last block as measured with TensorRT-RTX; not measured on this runtime yet",
    ),
)
