"""Jetson Xavier NX: facts for estimates, nothing is built for it."""

from engines.targets import Board, Device, Gpu, Peaks
from engines.targets._jetson import XAVIER, XAVIER_NX_RAILS, XAVIER_SOURCES
from engines.targets._precisions import VOLTA

TARGET = Device(
    name="jetson-xavier-nx",
    summary="Jetson Xavier NX",
    gpu=Gpu(
        compute_capability="7.2",
        precisions=VOLTA,
        memory_gb=8,
        memory_is_shared=True,
        peaks=(
            Peaks(
                mode="MODE_20W_6CORE",
                multiprocessors=6,
                fp16_tflops=6,
                int8_tops=12.3,
                bandwidth_gb_s=59.7,
            ),
        ),
    ),
    board=Board(
        modules=("p3668-0000", "p3668-0001", "p3668-0003"),
        power_modes=(
            "MODE_15W_2CORE",
            "MODE_15W_4CORE",
            "MODE_15W_6CORE",
            "MODE_10W_2CORE",
            "MODE_10W_4CORE",
            "MODE_10W_DESKTOP",
            "MODE_20W_2CORE",
            "MODE_20W_4CORE",
            "MODE_20W_6CORE",
        ),
        rails=XAVIER_NX_RAILS,
    ),
    releases=XAVIER,
    default="jp5.1.5",
    sources=(
        "memory: 8 GB LPDDR4x for CPU and GPU (p3668-0003 has 16 GB), 59.7 GB/s, 51.2 GB/s before "
        "the 20 W modes (NVIDIA, Jetson Xavier NX data sheet)",
        "power modes: names of the nvpmodel file (NVIDIA, Jetson Linux Developer Guide 35.4.1, "
        "Jetson Xavier NX and AGX Xavier series)",
        "rails: VDD_IN is the input of the module, the others lie behind it (NVIDIA forum 200883)",
        *XAVIER_SOURCES,
    ),
)
