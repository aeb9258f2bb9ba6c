"""TensorRT 10.3 to 11 on the GPU or the Jetson board that will run the plan."""

from engines.targets import Target

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
    precisions=("fp32", "fp16", "bf16", "int8", "fp8"),
    optimization_level=3,
    sources=(
        "optimization level 3 is the builder's own default in every version; plans name it",
        "TensorRT 10.0 to 10.8 read opsets 9 to 20, later ones more (onnx-tensorrt, operators.md)",
        "scale and last block as measured with TensorRT-RTX; not measured on this runtime yet",
    ),
)
