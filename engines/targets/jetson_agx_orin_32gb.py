"""Jetson AGX Orin with 32 GB, the production module."""

from engines.targets import Device, Gpu, JetsonModule, Peaks
from engines.targets._jetson import AGX_ORIN, AGX_ORIN_RAILS, AGX_ORIN_SOURCES
from engines.targets._precisions import AMPERE

TARGET = Device(
    name="jetson-agx-orin-32gb",
    summary="Jetson AGX Orin 32 GB",
    gpu=Gpu(
        compute_capability="8.7",
        precisions=AMPERE,
        memory_gb=32,
        memory_is_shared=True,
        peaks=(
            Peaks(
                mode="MAXN",
                multiprocessors=14,
                fp16_tflops=26.7,
                int8_tops=53,
                bandwidth_gb_s=204.8,
            ),
        ),
    ),
    board=JetsonModule(
        modules=("p3701-0004",),
        power_modes=("MAXN", "MODE_15W", "MODE_30W", "MODE_40W"),
        rails=AGX_ORIN_RAILS,
    ),
    releases=AGX_ORIN,
    default="jp6.2",
    sources=(
        "memory: 32 GB LPDDR5 for CPU and GPU, 204.8 GB/s (NVIDIA, Jetson AGX Orin series data "
        "sheet)",
        "peaks: 14 SMs at 0.93 GHz (the same data sheet); an SM of Orin does 1024 dense FP16 and "
        "2048 dense INT8 multiply-adds a clock; not published for the modes below MAXN",
        "power modes: MAXN, 15W, 30W and 40W (NVIDIA, Jetson Linux Developer Guide 36.4.3, "
        "supported modes), spelled as nvpmodel prints those of the 64 GB module; an owner of the "
        "first developer kit, p3701-0000 with 32 GB and the larger GPU, found 50W in place of 40W "
        "(NVIDIA forum 323456), so that module is neither this target nor the 64 GB one",
        *AGX_ORIN_SOURCES,
    ),
)
