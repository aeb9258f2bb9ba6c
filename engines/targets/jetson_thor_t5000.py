"""Jetson Thor T5000, also as the AGX Thor developer kit."""

from engines.targets import Device, Gpu, JetsonModule, Peaks
from engines.targets._jetson import THOR, THOR_RAILS, THOR_SOURCES
from engines.targets._precisions import ADA

TARGET = Device(
    name="jetson-thor-t5000",
    summary="Jetson Thor T5000",
    gpu=Gpu(
        compute_capability="11.0",
        other_spellings=("10.1",),
        precisions=ADA,
        memory_gb=128,
        memory_is_shared=True,
        peaks=(
            Peaks(
                mode="MAXN", multiprocessors=20, fp16_tflops=259, fp8_tflops=517, bandwidth_gb_s=273
            ),
        ),
    ),
    board=JetsonModule(
        modules=("p3834-0008",), power_modes=("MAXN", "120W", "90W", "70W"), rails=THOR_RAILS
    ),
    releases=THOR,
    default="jp7.2",
    sources=(
        "memory: 128 GB LPDDR5X for CPU and GPU, 273 GB/s (NVIDIA, Jetson Thor series modules data "
        "sheet)",
        "modules: /proc/device-tree/compatible of the developer kit (rbonghi/jetson_stats issue "
        "772, NVIDIA/jetson-gpio issue 135)",
        "power modes: MAXN and 120W in the nvpmodel file of Jetson Linux 38.2 "
        "(anduril/jetpack-nixos pull request 460); 90W and 70W in later ones",
        *THOR_SOURCES,
    ),
)
