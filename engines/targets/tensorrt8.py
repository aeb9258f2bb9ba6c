"""TensorRT 8.6, as JetPack 6.0 has it on Orin boards: no strong typing, opset 17."""

from engines.targets import Target

TARGET = Target(
    name="tensorrt8",
    summary="TensorRT 8.6 of JetPack 6.0 (Orin)",
    backend="trt",
    module="tensorrt",
    suffix=".plan",
    opset=17,
    opset_ceiling=17,
    typing="weak",
    attention_scale="split",
    last_block="all-tokens",
    precisions=("fp32", "fp16", "int8"),
    optimization_level=3,
    sources=(
        "optimization level 3 is the builder's own default in every version; plans name it",
        "JetPack 6.0 (L4T 36.3) has TensorRT 8.6.2 (NVIDIA, JetPack archive)",
        "TensorRT 8.6 reads opsets up to 17, with LayerNormalization and without Gelu "
        "(onnx-tensorrt, operators.md of 8.6)",
        "typing: its Python bindings have BuilderFlag.FP16, INT8 and OBEY_PRECISION_CONSTRAINTS, "
        "and neither BF16 nor NetworkDefinitionCreationFlag.STRONGLY_TYPED (read off 8.6.1)",
        "precisions: BuilderFlag.FP8 exists there, but no Jetson board of JetPack 6 has FP8 units",
        "scale and last block as measured with TensorRT-RTX; not measured on this runtime yet",
    ),
)
