"""GB10, as in the DGX Spark."""

from engines.targets import Device, Gpu, Peaks
from engines.targets._precisions import ADA
from engines.targets._tensorrt import DEFAULT_RTX, GB10

TARGET = Device(
    name="gb10",
    summary="GB10 (DGX Spark)",
    gpu=Gpu(
        compute_capability="12.1",
        precisions=ADA,
        memory_gb=128,
        driver_names=("NVIDIA GB10",),
        memory_is_shared=True,
        peaks=(Peaks(multiprocessors=48, bandwidth_gb_s=273),),
    ),
    releases=GB10,
    default="rtx",
    sources=(
        "compute capability: 12.1 (NVIDIA, CUDA GPUs)",
        "memory: 128 GB LPDDR5X for CPU and GPU, 273 GB/s (NVIDIA, DGX Spark hardware overview)",
        "peaks: 48 SMs; dense figures are not published, only one sparse FP4 figure",
        "rtx: TensorRT-RTX 1.5 is the first that supports 12.1 (its support matrix)",
        DEFAULT_RTX,
    ),
)
