"""A10."""

from engines.targets import Device, Gpu, Peaks
from engines.targets._precisions import AMPERE
from engines.targets._tensorrt import CARDS, DEFAULT_TRT

TARGET = Device(
    name="a10",
    summary="A10",
    gpu=Gpu(
        compute_capability="8.6",
        precisions=AMPERE,
        memory_gb=24,
        driver_names=("NVIDIA A10",),
        peaks=(Peaks(multiprocessors=72, fp16_tflops=125, int8_tops=250, bandwidth_gb_s=600),),
    ),
    releases=CARDS,
    default="trt",
    sources=(
        "compute capability: 8.6 (NVIDIA, CUDA GPUs)",
        "memory: 24 GB, 600 GB/s (NVIDIA, A10 data sheet)",
        "peaks: 72 SMs; dense (the same data sheet); its 150 W hold the clocks down under load",
        DEFAULT_TRT,
    ),
)
