"""The peaks of a device in a power mode and a precision, or why there is no prediction."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from engines import precisions
from engines.errors import UsageError
from engines.near_names import did_you_mean
from engines.targets import Device, Peaks

_FLOPS_PER_MAC = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hardware:
    """What a GPU does at most.

    Attributes:
        device: Name of the target, without its release.
        mode: Power mode, as `nvpmodel` names it; "" where there are none.
        multiprocessors: That are on in that mode.
        half_macs_per_s: Of the tensor cores in half precision.
        eight_bit_macs_per_s: In INT8 or FP8, whichever was asked for; None in half precision.
        bytes_per_s: Of its memory.
        is_board: Whether it is a board whose CPU shares the memory.
    """

    device: str
    mode: str
    multiprocessors: int
    half_macs_per_s: float
    eight_bit_macs_per_s: float | None
    bytes_per_s: float
    is_board: bool

    def macs_per_s(self, *, eight_bit: bool) -> float:
        """Return the peak of products whose factors have 8 bits, or 16."""
        if not eight_bit:
            return self.half_macs_per_s
        assert self.eight_bit_macs_per_s is not None, "the hardware was asked for in half precision"
        return self.eight_bit_macs_per_s

    @property
    def name(self) -> str:
        """The device with its mode."""
        return f"{self.device}, {self.mode}" if self.mode else self.device


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unpredicted:
    """A power mode for which nothing can be predicted, and why; "" stands for all of them."""

    mode: str
    reason: str


def hardware_of(device: Device, mode: str, precision: str) -> Hardware:
    """Return what a device does at most in one power mode.

    Raises:
        UsageError: The mode is not known, its peaks are not published, or the precision has none.
    """
    by_mode = {peaks.mode: peaks for peaks in device.gpu.peaks}
    known = (*by_mode, *(device.board.power_modes if device.board else ()))
    if mode not in known:
        names = tuple(dict.fromkeys(name for name in known if name))
        raise UsageError(
            f"{device.name} has no power mode {mode!r}, it has {', '.join(names)}"
            if names
            else f"{device.name} has no power modes, {mode!r} was asked for",
            where="--power-mode",
            fix=did_you_mean(mode, names, otherwise="name one of these")
            if names
            else "leave --power-mode out",
        )
    reason = _missing(device, by_mode.get(mode), precision)
    if reason:
        raise UsageError(
            f"nothing can be predicted for {device.name}{f' in {mode}' if mode else ''}: {reason}",
            where="--power-mode" if mode else "--target",
            fix=_instead(device, precision),
        )
    peaks = by_mode[mode]
    assert peaks.multiprocessors and peaks.fp16_tflops and peaks.bandwidth_gb_s
    eight = _eight_bit_peak(peaks, precision)
    return Hardware(
        device=device.name,
        mode=mode,
        multiprocessors=peaks.multiprocessors,
        half_macs_per_s=peaks.fp16_tflops * 1e12 / _FLOPS_PER_MAC,
        eight_bit_macs_per_s=None if eight is None else eight * 1e12 / _FLOPS_PER_MAC,
        bytes_per_s=peaks.bandwidth_gb_s * 1e9,
        is_board=device.gpu.memory_is_shared,
    )


def modes_of(device: Device, precision: str) -> tuple[list[Hardware], list[Unpredicted]]:
    """Return a device in every mode whose peaks are known, and the modes that must be left out."""
    if not _computes(device, precision):
        return [], [Unpredicted(mode="", reason=_no_precision(precision))]
    by_mode = {peaks.mode: peaks for peaks in device.gpu.peaks}
    names = dict.fromkeys((*by_mode, *(device.board.power_modes if device.board else ())))
    found, left = [], []
    for mode in names:
        reason = _missing(device, by_mode.get(mode), precision)
        if reason:
            left.append(Unpredicted(mode=mode, reason=reason))
        else:
            found.append(hardware_of(device, mode, precision))
    return found, left


def _eight_bit_peak(peaks: Peaks, precision: str) -> float | None:
    return {precisions.INT8: peaks.int8_tops, precisions.FP8: peaks.fp8_tflops}.get(precision)


def _missing(device: Device, peaks: Peaks | None, precision: str) -> str:
    """Return what a prediction lacks, in words; "" where it lacks nothing."""
    if not _computes(device, precision):
        return _no_precision(precision)
    if peaks is None:
        return "its peaks in this mode are not published"
    lacking = list(_lacking(peaks, precision))
    return f"{' and '.join(lacking)} not published" if lacking else ""


def _computes(device: Device, precision: str) -> bool:
    """Say whether tensor cores of a device compute in a precision; its float32 is another unit."""
    return precision != precisions.FP32 and precision in device.gpu.precisions


def _no_precision(precision: str) -> str:
    return f"its tensor cores do not compute in {precision.upper()}"


def _lacking(peaks: Peaks, precision: str) -> Iterator[str]:
    if peaks.multiprocessors is None:
        yield "the number of its multiprocessors is"
    if peaks.fp16_tflops is None:
        yield "its FP16 peak is"
    if precisions.is_quantized(precision) and _eight_bit_peak(peaks, precision) is None:
        yield f"its {precision.upper()} peak is"
    if peaks.bandwidth_gb_s is None:
        yield "its bandwidth is"


def _instead(device: Device, precision: str) -> str:
    modes = [peaks.mode for peaks in device.gpu.peaks if not _missing(device, peaks, precision)]
    if modes and modes != [""]:
        return f"ask for {' or '.join(modes)}, or measure on the board"
    halves = [name for name in (precisions.FP16, precisions.FP8, precisions.INT8)
              if any(not _missing(device, peaks, name) for peaks in device.gpu.peaks)]  # fmt: skip
    return f"ask for {' or '.join(halves)}, or measure on it" if halves else "measure on it"
