"""GeForce RTX 5090."""

from engines.targets import Device, Gpu, Peaks
from engines.targets._precisions import ADA
from engines.targets._tensorrt import BLACKWELL_CARDS, DEFAULT_RTX

TARGET = Device(
    name="rtx-5090",
    summary="GeForce RTX 5090",
    gpu=Gpu(
        compute_capability="12.0",
        precisions=ADA,
        memory_gb=32,
        driver_names=("NVIDIA GeForce RTX 5090",),
        peaks=(
            Peaks(
                multiprocessors=170,
                fp16_tflops=209,
                int8_tops=838,
                fp8_tflops=419,
                fp16_narrow_tflops=419,
                fp8_narrow_tflops=838,
                bandwidth_gb_s=1792,
            ),
        ),
    ),
    releases=BLACKWELL_CARDS,
    default="rtx",
    sources=(
        "compute capability: 12.0 (NVIDIA, CUDA GPUs)",
        "memory: 32 GB, 1792 GB/s (NVIDIA, RTX Blackwell GPU architecture white paper, appendix A)",
        "peaks: 170 SMs; dense tensor TFLOPS with sums in float32 and in float16 (the same "
        "appendix)",
        DEFAULT_RTX,
    ),
)
