"""What the Jetson families have in common: their JetPack releases, rails and sources.

The releases come from `engines.machine.jetpack`; what TensorRT does in each is in `_tensorrt`.
"""

from __future__ import annotations

from engines.machine import jetpack
from engines.targets import PowerRails, Release
from engines.targets._tensorrt import release

_ARCHIVE = (
    "jetpack: NVIDIA, JetPack archive; its TensorRT may be a newer one that NVIDIA published for "
    "the same JetPack, so the installed version is compared, not assumed"
)
_TRT_11 = (
    "jetpack: TensorRT 11.4.1 supports JetPack 7.2.2 and newer on AGX Orin and Thor through its "
    "Linux SBSA package, 11.0 to 11.4.0 support no JetPack (NVIDIA, TensorRT 11.4.1, migrating "
    "Jetson from 10.x to 11.x)"
)


def _releases(family: str, *, since: str = "") -> tuple[Release, ...]:
    """Return a family's JetPacks from `since` on, as releases."""
    jetpacks = jetpack.on_tensorrt(family)
    start = next((place for place, one in enumerate(jetpacks) if one.name == since), 0)
    found = []
    for one in jetpacks[start:]:
        assert one.tensorrt is not None
        oldest, newest = one.tensorrt
        span = oldest if oldest == newest else f"{oldest} to {newest}"
        summary = f"JetPack {one.name} with TensorRT {span}"
        found.append(release(f"jp{one.name}", summary, one.tensorrt, _ARCHIVE))
    return tuple(found)


_ON_TRT_11 = release(
    "jp7.2.2-trt11", "JetPack 7.2.2 with TensorRT 11.4.1 or newer", ("11.4.1", "11"), _TRT_11
)

ORIN = _releases("orin", since="5.1")
AGX_ORIN = (*ORIN, _ON_TRT_11)
THOR = (*_releases("thor"), _ON_TRT_11)
THOR_T4000 = (*_releases("thor", since="7.1"), _ON_TRT_11)

ORIN_DEFAULT = (
    "default release jp6.2: the newest JetPack 6, which most Orin boards have; its graph (opset "
    "20) is read by JetPack 7.2 as well"
)
THOR_DEFAULT = (
    "default release jp7.2: the newest whose TensorRT is known; all of JetPack 7 read its graph"
)

SMALL_ORIN_RAILS = PowerRails(total=("VDD_IN",), parts=("VDD_CPU_GPU_CV", "VDD_SOC"))
AGX_ORIN_RAILS = PowerRails(
    total=("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"), parts=("VDDQ_VDD2_1V8AO",)
)
THOR_RAILS = PowerRails(total=("VIN",), parts=("VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0"))

_TX2_RAILS = PowerRails(total=("VDD_IN",))
OLDER_RAILS = {
    "p3448": PowerRails(total=("POM_5V_IN",), parts=("POM_5V_GPU", "POM_5V_CPU")),  # Nano
    "p3310": _TX2_RAILS,
    "p3489": _TX2_RAILS,
    "p2888": PowerRails(total=("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V")),  # AGX Xavier
    "p3668": SMALL_ORIN_RAILS,  # Xavier NX
}
"""By family of part numbers: rails of modules that are no targets, but run graphs for the CPU.

Source: NVIDIA, Jetson Linux Developer Guide 32.7, clock frequency and power management; on AGX
Xavier no rail measures the whole module.
"""

_MODULES = (
    "modules: NVIDIA, Jetson Linux quick start, list of module part numbers; as seen in "
    "/proc/device-tree/compatible"
)
_ORIN_GUIDE = (
    "NVIDIA, Jetson Linux Developer Guide 36.4.3, Jetson Orin Nano, Orin NX and AGX Orin series"
)
_ORIN_COMMON = (
    "compute capability: 8.7 (NVIDIA, CUDA GPUs); Orin's tensor cores have no FP8 (NVIDIA, "
    "TensorRT support matrix)",
    _MODULES,
)
_ORIN_PEAKS = (
    "an SM of Orin does 1024 dense FP16 and 2048 dense INT8 multiply-adds a clock, so dense FP16 "
    "is SMs x 2.048 x GHz TFLOPS, a quarter of the sparse INT8 TOPS of NVIDIA's data sheets"
)
SMALL_ORIN_SOURCES = (
    *_ORIN_COMMON,
    f"peaks: SMs, clocks and bandwidth from the module's data sheet; {_ORIN_PEAKS}",
    "power modes: names of the nvpmodel files of JetPack 6.2, where 25W, 40W and MAXN_SUPER "
    "are new; before it the largest is 15W on the Nano, 25W and MAXN on the NX "
    f"({_ORIN_GUIDE}, supported modes)",
    f"rails: VDD_IN is the input of the module, the others lie behind it ({_ORIN_GUIDE}, "
    "software-based power consumption modelling)",
    ORIN_DEFAULT,
)
AGX_ORIN_SOURCES = (
    *_ORIN_COMMON,
    f"rails: no rail measures the whole module; VDDQ_VDD2_1V8AO is contained in VIN_SYS_5V0 and is "
    f"not added ({_ORIN_GUIDE}, software-based power consumption modelling; NVIDIA forum 223111)",
    ORIN_DEFAULT,
)
THOR_SOURCES = (
    "compute capability: 11.0 since CUDA 13, 10.1 with CUDA 12 and DriveOS (NVIDIA, CUDA GPUs and "
    "TensorRT release properties of DriveOS 7)",
    "peaks: half of NVIDIA's sparse figures; INT8 is not published, only FP4, FP8 and FP16 "
    "(NVIDIA, Jetson Thor series modules data sheet)",
    "rails: VIN (an INA238) is the input of the module, the others lie behind it (NVIDIA, Jetson "
    "Linux Developer Guide 38.2, Jetson Thor)",
    THOR_DEFAULT,
)
