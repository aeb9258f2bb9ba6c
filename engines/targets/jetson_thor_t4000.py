"""Jetson Thor T4000."""

from engines.targets import Device, Gpu, JetsonModule, Peaks
from engines.targets._jetson import THOR_RAILS, THOR_SOURCES, THOR_T4000
from engines.targets._precisions import ADA

TARGET = Device(
    name="jetson-thor-t4000",
    summary="Jetson Thor T4000",
    gpu=Gpu(
        compute_capability="11.0",
        other_spellings=("10.1",),
        precisions=ADA,
        memory_gb=64,
        memory_is_shared=True,
        peaks=(Peaks(multiprocessors=12, fp16_tflops=150, fp8_tflops=300, bandwidth_gb_s=273),),
    ),
    board=JetsonModule(modules=("p3834-0000",), power_modes=(), rails=THOR_RAILS),
    releases=THOR_T4000,
    default="jp7.2",
    sources=(
        "memory: 64 GB LPDDR5X for CPU and GPU, 273 GB/s (NVIDIA, Jetson Thor series modules data "
        "sheet)",
        "peaks: 12 SMs as sold (1536 CUDA cores); an owner saw the runtime report 20 (NVIDIA forum "
        "356355), so peaks are not derived from their number",
        "modules: 3834-0000 (OE4T/meta-tegra issue 2110 and pull request 2229); JetPack 7.1 is the "
        "first for it (NVIDIA, JetPack archive)",
        "power modes: 40 to 70 W; their names are not published",
        *THOR_SOURCES,
    ),
)
