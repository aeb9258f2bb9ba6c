"""H100 PCIe."""

from engines.targets import Device, Gpu, Peaks
from engines.targets._precisions import ADA
from engines.targets._tensorrt import DATA_CENTRE, DEFAULT_TRT

TARGET = Device(
    name="h100-pcie",
    summary="H100 PCIe",
    gpu=Gpu(
        compute_capability="9.0",
        precisions=ADA,
        memory_gb=80,
        driver_names=("NVIDIA H100 PCIe",),
        peaks=(
            Peaks(
                multiprocessors=114,
                fp16_tflops=756,
                int8_tops=1513,
                fp8_tflops=1513,
                bandwidth_gb_s=2000,
            ),
        ),
    ),
    releases=DATA_CENTRE,
    default="trt",
    sources=(
        "compute capability: 9.0 (NVIDIA, CUDA GPUs)",
        "memory: 80 GB, 2000 GB/s (NVIDIA, H100 data sheet)",
        "peaks: 114 SMs; half of the sparse figures of the same data sheet",
        "rtx: not offered, TensorRT-RTX does not know 9.0 (its support matrix)",
        DEFAULT_TRT,
    ),
)
