"""What tensor cores compute in, by generation.

Source: NVIDIA, TensorRT support matrix, "Hardware and Precision": BF16 from compute capability 8.0,
FP8 from 8.9; 8.7 (Orin) has no FP8.
"""

from engines.precisions import BF16, FP8, FP16, FP32, INT8

TURING = (FP32, FP16, INT8)
AMPERE = (FP32, FP16, BF16, INT8)
ADA = (FP32, FP16, BF16, INT8, FP8)
