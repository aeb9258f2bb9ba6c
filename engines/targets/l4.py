"""L4."""

from engines.targets import Device, Gpu, Peaks
from engines.targets._precisions import ADA
from engines.targets._tensorrt import CARDS, DEFAULT_TRT

TARGET = Device(
    name="l4",
    summary="L4",
    gpu=Gpu(
        compute_capability="8.9",
        precisions=ADA,
        memory_gb=24,
        driver_names=("NVIDIA L4",),
        peaks=(
            Peaks(
                multiprocessors=58,
                fp16_tflops=121,
                int8_tops=242,
                fp8_tflops=242,
                bandwidth_gb_s=300,
            ),
        ),
    ),
    releases=CARDS,
    default="trt",
    sources=(
        "compute capability: 8.9 (NVIDIA, CUDA GPUs)",
        "memory: 24 GB, 300 GB/s (NVIDIA, L4 data sheet)",
        "peaks: 58 SMs; half of the sparse figures of the same data sheet; its 72 W hold the "
        "clocks down under load",
        DEFAULT_TRT,
    ),
)
