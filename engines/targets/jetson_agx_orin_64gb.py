"""Jetson AGX Orin with 64 GB, also as the developer kit of that size."""

from engines.targets import Device, Gpu, JetsonModule, Peaks
from engines.targets._jetson import AGX_ORIN, AGX_ORIN_RAILS, AGX_ORIN_SOURCES
from engines.targets._precisions import AMPERE

TARGET = Device(
    name="jetson-agx-orin-64gb",
    summary="Jetson AGX Orin 64 GB",
    gpu=Gpu(
        compute_capability="8.7",
        precisions=AMPERE,
        memory_gb=64,
        memory_is_shared=True,
        peaks=(
            Peaks(
                mode="MAXN",
                multiprocessors=16,
                fp16_tflops=42.6,
                int8_tops=85,
                bandwidth_gb_s=204.8,
            ),
            Peaks(mode="MODE_50W", fp16_tflops=27, int8_tops=54),
            Peaks(mode="MODE_30W", fp16_tflops=10, int8_tops=20),
            Peaks(mode="MODE_15W", fp16_tflops=3.5, int8_tops=7),
        ),
    ),
    board=JetsonModule(
        modules=("p3701-0005",),
        power_modes=("MAXN", "MODE_15W", "MODE_30W", "MODE_50W"),
        rails=AGX_ORIN_RAILS,
    ),
    releases=AGX_ORIN,
    default="jp6.2",
    sources=(
        "memory: 64 GB LPDDR5 for CPU and GPU, 204.8 GB/s (NVIDIA, Jetson AGX Orin series data "
        "sheet); not published for the modes below MAXN",
        "peaks: a quarter of NVIDIA's sparse INT8 TOPS of the GPU in each mode, 171, 109, 41 and "
        "14 (NVIDIA, Deep-Learning-Accelerator-SW); SMs are switched off in the lower modes, how "
        "many is not published",
        "power modes: MAXN, 15W, 30W and 50W (NVIDIA, Jetson Linux Developer Guide 36.4.3, "
        "supported modes), spelled as nvpmodel prints them on JetPack 5 (listings of owners, as "
        "`NV Power Mode: MODE_50W`)",
        *AGX_ORIN_SOURCES,
    ),
)
