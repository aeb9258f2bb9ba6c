"""A100 80 GB."""

from engines.targets import Device, Gpu, Peaks
from engines.targets._precisions import AMPERE
from engines.targets._tensorrt import CARDS, DEFAULT_TRT

TARGET = Device(
    name="a100-80gb",
    summary="A100 80 GB",
    gpu=Gpu(
        compute_capability="8.0",
        precisions=AMPERE,
        memory_gb=80,
        driver_names=("NVIDIA A100-SXM4-80GB",),
        peaks=(Peaks(multiprocessors=108, fp16_tflops=312, int8_tops=624, bandwidth_gb_s=2039),),
    ),
    releases=CARDS,
    default="trt",
    sources=(
        "compute capability: 8.0 (NVIDIA, CUDA GPUs)",
        "memory: 80 GB, 2039 GB/s as SXM, 1935 GB/s as PCIe card (NVIDIA, A100 data sheet)",
        "peaks: 108 SMs; dense (the same data sheet)",
        "rtx: TensorRT-RTX 1.7.1 has the compute capability 8.0 in its API and builds for it "
        "(measured); its support matrix does not list it",
        DEFAULT_TRT,
    ),
)
