"""A100 40 GB."""

from engines.targets import Device, Gpu, Peaks
from engines.targets._precisions import AMPERE
from engines.targets._tensorrt import CARDS, DEFAULT_TRT

TARGET = Device(
    name="a100",
    summary="A100 40 GB",
    gpu=Gpu(
        compute_capability="8.0",
        precisions=AMPERE,
        memory_gb=40,
        driver_names=("NVIDIA A100-SXM4-40GB", "NVIDIA A100-PCIE-40GB"),
        peaks=(Peaks(multiprocessors=108, fp16_tflops=312, int8_tops=624, bandwidth_gb_s=1555),),
    ),
    releases=CARDS,
    default="trt",
    sources=(
        "compute capability: 8.0 (NVIDIA, CUDA GPUs)",
        "memory: 40 GB, 1555 GB/s (NVIDIA, A100 data sheet); a100-80gb is another target",
        "peaks: 108 SMs; dense (the same data sheet)",
        "rtx: TensorRT-RTX 1.7.1 has the compute capability 8.0 in its API and builds for it "
        "(measured); its support matrix does not list it",
        DEFAULT_TRT,
    ),
)
