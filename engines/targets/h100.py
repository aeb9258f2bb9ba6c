"""H100 SXM."""

from engines.targets import Device, Gpu, Peaks
from engines.targets._precisions import ADA
from engines.targets._tensorrt import DATA_CENTRE, DEFAULT_TRT

TARGET = Device(
    name="h100",
    summary="H100 SXM",
    gpu=Gpu(
        compute_capability="9.0",
        precisions=ADA,
        memory_gb=80,
        driver_names=("NVIDIA H100 80GB HBM3",),
        peaks=(
            Peaks(
                multiprocessors=132,
                fp16_tflops=989,
                int8_tops=1979,
                fp8_tflops=1979,
                bandwidth_gb_s=3350,
            ),
        ),
    ),
    releases=DATA_CENTRE,
    default="trt",
    sources=(
        "compute capability: 9.0 (NVIDIA, CUDA GPUs)",
        "memory: 80 GB, 3350 GB/s (NVIDIA, H100 data sheet); the PCIe card is the target h100-pcie",
        "peaks: 132 SMs; half of the sparse figures of the same data sheet",
        "rtx: not offered, TensorRT-RTX does not know 9.0 (its support matrix)",
        DEFAULT_TRT,
    ),
)
