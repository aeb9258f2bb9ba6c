"""An NVIDIA GPU through NVML, with the package nvidia-ml-py where it is installed.

On a Jetson NVML initialises and then answers each question about power with "not supported", so
every call is tried before anything is promised.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

from benchmarks.conditions.gpu_state import read_used_gpu
from benchmarks.energy.sensor import Missing, Quantity, Sensor
from benchmarks.energy.sources._gpu import CHOOSE, COVERS, IS_CUT, WHICH
from benchmarks.energy.sources._machine import Device, Machine

NAME = "NVML"
SERVES: frozenset[Device] = frozenset({"gpu"})
_INTERVAL_S = 0.05
_COUNTER_AVERAGING_S = 0.1
_POWER_AVERAGING_S = 1.0
"""From Ampere on `nvmlDeviceGetPowerUsage` is an average over one second (nvml.h)."""


def open_sensor(machine: Machine) -> Sensor | Missing:
    """Return the used GPU's energy counter, else its power, or why there is neither."""
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        return Missing(source=NAME, reason="nvidia-ml-py is not installed")
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        return Missing(source=NAME, reason=f"NVML does not start: {error}")
    found = _of_used_gpu(nvml)
    if isinstance(found, Missing):
        nvml.nvmlShutdown()
    return found


def _of_used_gpu(nvml: ModuleType) -> Sensor | Missing:
    try:
        handle = _handle(nvml)
    except nvml.NVMLError as error:
        return Missing(source=NAME, reason=f"NVML does not give the GPU: {error}")
    if handle is None:
        return Missing(source=NAME, reason=WHICH, fix=CHOOSE)
    if _is_cut(nvml, handle):
        return Missing(source=NAME, reason=IS_CUT)
    why = []
    calls: tuple[tuple[Quantity, Callable[[Any], int], float], ...] = (
        ("energy", nvml.nvmlDeviceGetTotalEnergyConsumption, _COUNTER_AVERAGING_S),
        ("power", nvml.nvmlDeviceGetPowerUsage, _POWER_AVERAGING_S),
    )
    for quantity, call, averaging_s in calls:
        try:
            call(handle)
        except nvml.NVMLError as error:
            why.append(f"{quantity}: {error}")
            continue
        return Sensor(
            source=NAME,
            covers=COVERS,
            rails=("GPU",),
            total=(0,),
            rule="energy counter" if quantity == "energy" else "power samples",
            read=_reader(nvml, call, handle),
            quantity=quantity,
            interval_s=_INTERVAL_S,
            averaging_s=averaging_s,
            wraps_at_mj=(math.inf,),
            close=nvml.nvmlShutdown,
        )
    return Missing(source=NAME, reason=f"NVML starts, but gives no number ({'; '.join(why)})")


def _handle(nvml: ModuleType) -> Any:
    """Return the GPU that engines of this process run on; None where that is not certain."""
    used = read_used_gpu()
    if used is not None and used.uuid:
        return nvml.nvmlDeviceGetHandleByUUID(used.uuid)
    return nvml.nvmlDeviceGetHandleByIndex(0) if nvml.nvmlDeviceGetCount() == 1 else None


def _is_cut(nvml: ModuleType, handle: Any) -> bool:
    try:
        now, _ = nvml.nvmlDeviceGetMigMode(handle)
    except nvml.NVMLError:  # a GPU that cannot be cut
        return False
    return bool(now)


def _reader(nvml: ModuleType, call: Callable[[Any], int], handle: Any) -> Callable[[], list[float]]:
    def read() -> list[float]:
        try:
            return [float(call(handle))]
        except nvml.NVMLError as error:
            raise OSError(f"NVML: {error}") from error

    return read
