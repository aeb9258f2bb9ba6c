"""GeForce RTX 3090."""

from engines.targets import Device, Gpu, Peaks
from engines.targets._precisions import AMPERE
from engines.targets._tensorrt import CARDS, DEFAULT_RTX

TARGET = Device(
    name="rtx-3090",
    summary="GeForce RTX 3090",
    gpu=Gpu(
        compute_capability="8.6",
        precisions=AMPERE,
        memory_gb=24,
        driver_names=("NVIDIA GeForce RTX 3090",),
        peaks=(
            Peaks(
                multiprocessors=82,
                fp16_tflops=71,
                int8_tops=284,
                fp16_narrow_tflops=142,
                bandwidth_gb_s=936,
            ),
        ),
    ),
    releases=CARDS,
    default="rtx",
    sources=(
        "compute capability: 8.6 (NVIDIA, CUDA GPUs)",
        "memory: 24 GB, 936 GB/s (NVIDIA, GA102 GPU architecture white paper, appendix A)",
        "peaks: 82 SMs; dense tensor TFLOPS with sums in float32 and in float16 (the same "
        "appendix)",
        DEFAULT_RTX,
    ),
)
