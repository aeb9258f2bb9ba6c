"""L40S."""

from engines.targets import Device, Gpu, Peaks
from engines.targets._precisions import ADA
from engines.targets._tensorrt import CARDS, DEFAULT_TRT

TARGET = Device(
    name="l40s",
    summary="L40S",
    gpu=Gpu(
        compute_capability="8.9",
        precisions=ADA,
        memory_gb=48,
        driver_names=("NVIDIA L40S",),
        peaks=(
            Peaks(
                multiprocessors=142,
                fp16_tflops=362,
                int8_tops=733,
                fp8_tflops=733,
                bandwidth_gb_s=864,
            ),
        ),
    ),
    releases=CARDS,
    default="trt",
    sources=(
        "compute capability: 8.9 (NVIDIA, CUDA GPUs)",
        "memory: 48 GB, 864 GB/s (NVIDIA, L40S data sheet)",
        "peaks: 142 SMs; dense (the same data sheet)",
        DEFAULT_TRT,
    ),
)
