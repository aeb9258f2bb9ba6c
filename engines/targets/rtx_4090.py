"""GeForce RTX 4090."""

from engines.targets import Device, Gpu, Peaks
from engines.targets._precisions import ADA
from engines.targets._tensorrt import CARDS, DEFAULT_RTX

TARGET = Device(
    name="rtx-4090",
    summary="GeForce RTX 4090",
    gpu=Gpu(
        compute_capability="8.9",
        precisions=ADA,
        memory_gb=24,
        driver_names=("NVIDIA GeForce RTX 4090",),
        peaks=(
            Peaks(
                multiprocessors=128,
                fp16_tflops=165,
                int8_tops=660,
                fp8_tflops=330,
                fp16_narrow_tflops=330,
                fp8_narrow_tflops=660,
                bandwidth_gb_s=1008,
            ),
        ),
    ),
    releases=CARDS,
    default="rtx",
    sources=(
        "compute capability: 8.9 (NVIDIA, CUDA GPUs)",
        "memory: 24 GB, 1008 GB/s (NVIDIA, Ada GPU architecture white paper, appendix A)",
        "peaks: 128 SMs; dense tensor TFLOPS with sums in float32 and in float16 (the same "
        "appendix)",
        DEFAULT_RTX,
    ),
)
