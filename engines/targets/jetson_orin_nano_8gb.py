"""Jetson Orin Nano with 8 GB, also as the developer kit."""

from engines.targets import Device, Gpu, JetsonModule, Peaks
from engines.targets._jetson import ORIN, SMALL_ORIN_RAILS, SMALL_ORIN_SOURCES
from engines.targets._precisions import AMPERE

TARGET = Device(
    name="jetson-orin-nano-8gb",
    summary="Jetson Orin Nano 8 GB",
    gpu=Gpu(
        compute_capability="8.7",
        precisions=AMPERE,
        memory_gb=8,
        memory_is_shared=True,
        peaks=(
            Peaks(
                mode="MAXN_SUPER",
                multiprocessors=8,
                fp16_tflops=16.7,
                int8_tops=33.4,
                bandwidth_gb_s=102,
            ),
            Peaks(
                mode="15W",
                multiprocessors=8,
                fp16_tflops=10.2,
                int8_tops=20.5,
                bandwidth_gb_s=68,
            ),
        ),
    ),
    board=JetsonModule(
        modules=("p3767-0003", "p3767-0005"),
        power_modes=("7W", "15W", "25W", "MAXN_SUPER"),
        rails=SMALL_ORIN_RAILS,
    ),
    releases=ORIN,
    default="jp6.2",
    sources=(
        "memory: 8 GB LPDDR5 for CPU and GPU, 68 GB/s, 102 GB/s in the Super modes (NVIDIA, Jetson "
        "Orin Nano series data sheet)",
        *SMALL_ORIN_SOURCES,
    ),
)
