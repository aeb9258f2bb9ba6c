"""Jetson Orin Nano with 4 GB."""

from engines.targets import Device, Gpu, JetsonModule, Peaks
from engines.targets._jetson import ORIN, SMALL_ORIN_RAILS, SMALL_ORIN_SOURCES
from engines.targets._precisions import AMPERE

TARGET = Device(
    name="jetson-orin-nano-4gb",
    summary="Jetson Orin Nano 4 GB",
    gpu=Gpu(
        compute_capability="8.7",
        precisions=AMPERE,
        memory_gb=4,
        memory_is_shared=True,
        peaks=(
            Peaks(
                mode="MAXN_SUPER",
                multiprocessors=4,
                fp16_tflops=8.4,
                int8_tops=16.7,
                bandwidth_gb_s=51,
            ),
            Peaks(mode="10W", multiprocessors=4, fp16_tflops=5.1, int8_tops=10, bandwidth_gb_s=34),
        ),
    ),
    board=JetsonModule(
        modules=("p3767-0004",),
        power_modes=("7W", "10W", "15W", "25W", "MAXN_SUPER"),
        rails=SMALL_ORIN_RAILS,
    ),
    releases=ORIN,
    default="jp6.2",
    sources=(
        "memory: 4 GB LPDDR5 for CPU and GPU, 34 GB/s, 51 GB/s in the Super modes (NVIDIA, Jetson "
        "Orin Nano series data sheet)",
        *SMALL_ORIN_SOURCES,
    ),
)
