"""Jetson AGX Xavier: facts for estimates, nothing is built for it."""

from engines.targets import Board, Device, Gpu, Peaks
from engines.targets._jetson import AGX_XAVIER_RAILS, XAVIER, XAVIER_SOURCES
from engines.targets._precisions import VOLTA

TARGET = Device(
    name="jetson-agx-xavier",
    summary="Jetson AGX Xavier",
    gpu=Gpu(
        compute_capability="7.2",
        precisions=VOLTA,
        memory_gb=16,
        memory_is_shared=True,
        peaks=(
            Peaks(mode="MAXN", multiprocessors=8, fp16_tflops=11, int8_tops=22, bandwidth_gb_s=137),
        ),
    ),
    board=Board(
        modules=("p2888-0001", "p2888-0004", "p2888-0005"),
        power_modes=(
            "MAXN",
            "MODE_10W",
            "MODE_15W",
            "MODE_30W_ALL",
            "MODE_30W_6CORE",
            "MODE_30W_4CORE",
            "MODE_30W_2CORE",
            "MODE_15W_DESKTOP",
        ),
        rails=AGX_XAVIER_RAILS,
    ),
    releases=XAVIER,
    default="jp5.1.5",
    sources=(
        "memory: 16 GB LPDDR4x for CPU and GPU (p2888-0004 has 32 GB, -0005 64 GB), 137 GB/s "
        "(NVIDIA, Jetson AGX Xavier series data sheet)",
        "power modes: names of the nvpmodel file (NVIDIA, Jetson Linux Developer Guide 35.4.1, "
        "Jetson Xavier NX and AGX Xavier series)",
        "rails: no rail measures the whole module, and none is a part of another (NVIDIA, Jetson "
        "Linux Developer Guide 35.4.1, software-based power consumption modelling)",
        *XAVIER_SOURCES,
    ),
)
