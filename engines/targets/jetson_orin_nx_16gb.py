"""Jetson Orin NX with 16 GB."""

from engines.targets import Device, Gpu, JetsonModule, Peaks
from engines.targets._jetson import ORIN, SMALL_ORIN_RAILS, SMALL_ORIN_SOURCES
from engines.targets._precisions import AMPERE

TARGET = Device(
    name="jetson-orin-nx-16gb",
    summary="Jetson Orin NX 16 GB",
    gpu=Gpu(
        compute_capability="8.7",
        precisions=AMPERE,
        memory_gb=16,
        memory_is_shared=True,
        peaks=(
            Peaks(
                mode="MAXN_SUPER",
                multiprocessors=8,
                fp16_tflops=19.2,
                int8_tops=38.4,
                bandwidth_gb_s=102.4,
            ),
            Peaks(
                mode="MAXN", multiprocessors=8, fp16_tflops=15, int8_tops=30, bandwidth_gb_s=102.4
            ),
        ),
    ),
    board=JetsonModule(
        modules=("p3767-0000",),
        power_modes=("10W", "15W", "25W", "40W", "MAXN", "MAXN_SUPER"),
        rails=SMALL_ORIN_RAILS,
    ),
    releases=ORIN,
    default="jp6.2",
    sources=(
        "memory: 16 GB LPDDR5 for CPU and GPU, 102.4 GB/s (NVIDIA, Jetson Orin NX series data "
        "sheet)",
        *SMALL_ORIN_SOURCES,
    ),
)
