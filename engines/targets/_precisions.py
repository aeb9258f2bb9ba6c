"""What tensor cores compute in, by generation.

Source: NVIDIA, TensorRT support matrix, "Hardware and Precision": BF16 from compute capability 8.0,
FP8 from 8.9; 8.7 (Orin) has no FP8.
"""

TURING = ("fp32", "fp16", "int8")
AMPERE = ("fp32", "fp16", "bf16", "int8")
ADA = ("fp32", "fp16", "bf16", "int8", "fp8")
