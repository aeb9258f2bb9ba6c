"""The GPU that a measurement ran on: what it is, its clocks, power and temperature.

Read from `nvidia-smi`, which every driver brings along, so that nothing needs to be installed. What
it does not tell (`[N/A]` on boards and on slices of a GPU) is None.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence

from engines.cuda.device import open_cuda
from engines.errors import FpetError
from engines.machine.sources import Run, run_command

_BASE = (
    "pci.bus_id", "uuid", "name", "driver_version", "memory.total", "power.limit", "power.draw",
    "temperature.gpu", "clocks.sm", "clocks.max.sm", "clocks.mem", "clocks.max.mem",
)  # fmt: skip
_CAPABILITY = "compute_cap"
_EVENTS = "clocks_event_reasons.active"  # its name since driver 535
_THROTTLE = "clocks_throttle_reasons.active"  # its name before
_QUERIES = (
    (*_BASE, _CAPABILITY, _EVENTS),
    (*_BASE, _CAPABILITY, _THROTTLE),
    (*_BASE, _THROTTLE),
    _BASE,
)
"""From the newest driver to the oldest: one that does not know a field answers nothing at all."""
_UNKNOWN_FIELD = "is not a valid field to query"

HELD_BACK = {
    0x04: "its power limit (SW power cap)",
    0x08: "a slowdown by the hardware (HW slowdown)",
    0x20: "its temperature (SW thermal slowdown)",
    0x40: "its temperature, by the hardware (HW thermal slowdown)",
    0x80: "the power supply (HW power brake)",
}
"""What lowers clocks against the user's will, by its bit in the mask of reasons.

Idleness (0x01), clocks that a user has set (0x02, 0x100) and SLI (0x10) are no reason to doubt.
Source: nvml.h, `nvmlClocksEventReason*`.
"""
BY_HARDWARE = 0x08 | 0x40 | 0x80


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gpu:
    """One GPU as the driver describes it."""

    name: str
    driver: str
    memory_mib: int | None = None
    power_limit_w: float | None = None
    compute_capability: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class GpuState:
    """What a GPU does at one moment; None is what the driver does not tell.

    Attributes:
        sm_mhz: Clock of its multiprocessors.
        sm_max_mhz: The highest one that they can have.
        memory_mhz: Clock of its memory.
        memory_max_mhz: Likewise.
        power_w: What it draws.
        temperature_c: Temperature of the chip, in degrees Celsius.
        reasons: Why clocks are not higher, as the driver's bits.
    """

    sm_mhz: int | None
    sm_max_mhz: int | None
    memory_mhz: int | None
    memory_max_mhz: int | None
    power_w: float | None
    temperature_c: int | None
    reasons: int | None

    def held_back_by(self) -> tuple[str, ...]:
        """Return what lowers the clocks against the user's will, in words."""
        return tuple(words for bit, words in HELD_BACK.items() if (self.reasons or 0) & bit)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GpuUse:
    """The GPU that a measurement ran on.

    Attributes:
        gpu: What it is.
        before: Its state after the warm-up, when the first round was over.
        after: Its state when the last round was over.
    """

    gpu: Gpu
    before: GpuState
    after: GpuState


@dataclasses.dataclass(frozen=True, kw_only=True)
class Listed:
    """One line of `nvidia-smi`; `bus` and `uuid` say which GPU of the machine it is."""

    bus: str
    uuid: str
    gpu: Gpu
    state: GpuState


def read_gpus(run: Run = run_command) -> tuple[Listed, ...]:
    """Return every GPU that the driver lists, in its order; none where there is no driver."""
    for fields in _QUERIES:
        command = ("nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits")
        text = run(command)
        if _UNKNOWN_FIELD not in text:
            rows = [line for line in text.splitlines() if len(line.split(",")) == len(fields)]
            return tuple(_listed(row, fields) for row in rows)
    return ()


def used_gpu(
    listed: Sequence[Listed],
    *,
    environ: Mapping[str, str] | None = None,
    bus_id: Callable[[], str | None] | None = None,
) -> Listed | None:
    """Return the GPU that CUDA calls its first; None where that is not certain.

    With several GPUs the order of CUDA is not that of the driver (CUDA puts the fastest first), so
    CUDA itself is asked for the address of its first device, unless `CUDA_VISIBLE_DEVICES` names
    one by its UUID.

    Args:
        listed: See `read_gpus`.
        environ: Environment variables of the process.
        bus_id: Returns the PCI address of CUDA's first device; None where CUDA does not tell.
    """
    if len(listed) <= 1:
        return listed[0] if listed else None
    first = (os.environ if environ is None else environ).get("CUDA_VISIBLE_DEVICES", "")
    first = first.partition(",")[0].strip()
    if first.startswith("GPU-"):
        named = [one for one in listed if one.uuid.startswith(first)]
        return named[0] if len(named) == 1 else None
    address = (bus_id or cuda_bus_id)()
    if address is None:
        return None
    return next((one for one in listed if _address(one.bus) == _address(address)), None)


def read_used_gpu() -> Listed | None:
    """Read the GPU that engines of this process run on; None where that is not certain."""
    return used_gpu(read_gpus())


def cuda_bus_id() -> str | None:
    """Return the PCI address of CUDA's first device; None where CUDA does not tell."""
    try:
        return open_cuda().bus_id()
    except FpetError:
        return None


def in_words(gpu: Gpu, state: GpuState | None = None) -> str:
    """Return a GPU and its state in one line, without what is not known."""
    parts = [gpu.name]
    if gpu.compute_capability:
        parts.append(f"SM {gpu.compute_capability}")
    parts.append(f"driver {gpu.driver}")
    if state is not None:
        parts += _state_parts(state, gpu.power_limit_w)
    elif gpu.power_limit_w is not None:
        parts.append(f"limit {gpu.power_limit_w:.0f} W")
    return ", ".join(parts)


def state_in_words(state: GpuState, limit_w: float | None) -> str:
    """Return a state in words; "" where nothing is known.

    Args:
        state: It.
        limit_w: The GPU's power limit.
    """
    return ", ".join(_state_parts(state, limit_w))


def _state_parts(state: GpuState, limit_w: float | None) -> list[str]:
    parts = []
    for name, now, most in (
        ("SM", state.sm_mhz, state.sm_max_mhz),
        ("memory", state.memory_mhz, state.memory_max_mhz),
    ):
        if now is not None:
            parts.append(f"{name} {now} MHz" if most is None else f"{name} {now} of {most} MHz")
    if state.power_w is not None:
        of = "" if limit_w is None else f" of {limit_w:.0f}"
        parts.append(f"{state.power_w:.0f}{of} W")
    if state.temperature_c is not None:
        parts.append(f"{state.temperature_c} °C")
    return parts


def _listed(line: str, fields: Sequence[str]) -> Listed:
    cells = dict(zip(fields, (cell.strip() for cell in line.split(",")), strict=True))
    capability = cells.get(_CAPABILITY, "")
    return Listed(
        bus=cells["pci.bus_id"],
        uuid=cells["uuid"],
        gpu=Gpu(
            name=cells["name"],
            driver=cells["driver_version"],
            memory_mib=_whole(cells["memory.total"]),
            power_limit_w=_number(cells["power.limit"]),
            compute_capability=capability if _number(capability) is not None else None,
        ),
        state=GpuState(
            sm_mhz=_whole(cells["clocks.sm"]),
            sm_max_mhz=_whole(cells["clocks.max.sm"]),
            memory_mhz=_whole(cells["clocks.mem"]),
            memory_max_mhz=_whole(cells["clocks.max.mem"]),
            power_w=_number(cells["power.draw"]),
            temperature_c=_whole(cells["temperature.gpu"]),
            reasons=_mask(cells.get(_EVENTS, cells.get(_THROTTLE, ""))),
        ),
    )


def _number(text: str) -> float | None:
    """Return a number; None for "[N/A]", "[Not Supported]", "[Unknown Error]" and their like."""
    try:
        return float(text)
    except ValueError:
        return None


def _whole(text: str) -> int | None:
    return int(text) if text.isdigit() else None


def _mask(text: str) -> int | None:
    try:
        return int(text, 16)
    except ValueError:
        return None


def _address(bus: str) -> tuple[int, ...] | None:
    """Return domain, bus, device and function; the driver writes more digits than CUDA."""
    try:
        return tuple(int(part, 16) for part in bus.replace(".", ":").split(":"))
    except ValueError:
        return None
