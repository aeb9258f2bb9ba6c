"""T4."""

from engines.targets import Device, Gpu, Peaks
from engines.targets._precisions import TURING
from engines.targets._tensorrt import DEFAULT_TRT, TURING_CARDS

TARGET = Device(
    name="t4",
    summary="T4",
    gpu=Gpu(
        compute_capability="7.5",
        precisions=TURING,
        memory_gb=16,
        driver_names=("Tesla T4",),
        peaks=(Peaks(multiprocessors=40, fp16_tflops=65, int8_tops=130, bandwidth_gb_s=320),),
    ),
    releases=TURING_CARDS,
    default="trt",
    sources=(
        "compute capability: 7.5 (NVIDIA, CUDA GPUs)",
        "memory: 16 GB, 320 GB/s (NVIDIA, T4 data sheet)",
        "peaks: 40 SMs; dense (the same data sheet); its 70 W hold the clocks down under load",
        "trt: Turing is the oldest generation since TensorRT 10.5 (its release notes), and the "
        "Python bindings of 11.4 still name it (HardwareCompatibilityLevel)",
        DEFAULT_TRT,
    ),
)
