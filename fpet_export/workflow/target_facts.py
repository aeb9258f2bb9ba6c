"""What `targets` says of a board, a GPU or a runtime: rows of its tables, lines with facts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from engines.precisions import FP8
from engines.targets import Device, Peaks, Target

_UNKNOWN = "–"


def device_rows(devices: Iterable[Device]) -> list[Sequence[str]]:
    """Return a row a device with a heading, or nothing where there are none."""
    rows: list[Sequence[str]] = [("target", "SM", "memory", "precisions", "usual release")]
    for device in devices:
        offered = [one.name for one in device.releases if not one.refusal]
        refused = device.default not in offered
        rows.append(
            (
                device.name,
                device.gpu.compute_capability,
                f"{device.gpu.memory_gb} GB",
                " ".join(device.gpu.precisions),
                "not built for" if refused else device.default,
            )
        )
    return rows if len(rows) > 1 else []


def release_rows(device: Device, chosen: Target) -> list[Sequence[str]]:
    """Return a row a release of `device`, the chosen one marked."""
    rows: list[Sequence[str]] = [("release", "versions", "opset (newest)", "precisions", "")]
    known = {release.name: release for release in device.releases}
    if chosen.release is not None:
        known.setdefault(chosen.release.name, chosen.release)
    for release in known.values():
        marks = ["← this one"] if release == chosen.release else []
        marks += ["usual"] if release.name == device.default else []
        marks += ["not built for"] if release.refusal else []
        rows.append(
            (
                f"@{release.name}",
                release.span,
                f"{release.opset} ({release.opset_ceiling})",
                " ".join(name for name in release.precisions if name in device.gpu.precisions),
                ", ".join(marks),
            )
        )
    return rows


def facts(entry: Target | Device) -> Iterator[str]:
    """Yield what is known of the hardware, in words, and every source."""
    if isinstance(entry, Device):
        yield from _hardware(entry)
    yield from entry.sources


def build_facts(target: Target) -> Iterator[str]:
    """Yield what decides a graph or a build for this target, and the sources of its release."""
    release = target.release
    if release is not None:
        if release.refusal:
            yield f"not built for: {release.refusal}"
        yield from release.sources
    yield f"graph: attention scale {target.attention_scale}, last block {target.last_block}"
    if target.optimization_level is not None:
        limit = "left to the builder"
        if target.workspace_bytes is not None:
            limit = f"{target.workspace_bytes / 2**30:g} GiB"
        yield f"build: optimization level {target.optimization_level}, workspace {limit}"


def _hardware(device: Device) -> Iterator[str]:
    gpu, board = device.gpu, device.board
    also = f" (also called {', '.join(gpu.other_spellings)})" if gpu.other_spellings else ""
    shared = "shared with the CPU" if gpu.memory_is_shared else "its own"
    yield f"GPU: compute capability {gpu.compute_capability}{also}, {gpu.memory_gb} GB, {shared}"
    for peaks in gpu.peaks:
        mode = f" in {peaks.mode}" if peaks.mode else ""
        yield f"peaks{mode}: {_peaks(peaks, gpu.precisions)}"
    if board is not None:
        yield f"modules: {', '.join(board.modules) or 'not known'}"
        yield f"power modes: {', '.join(board.power_modes)}"
        parts = ", ".join(board.rails.parts)
        yield f"power rails: {board.rails.rule}" + (f"; {parts} are parts of it" if parts else "")


def _peaks(peaks: Peaks, precisions: Sequence[str]) -> str:
    parts = [
        f"{_number(peaks.multiprocessors)} SMs",
        f"FP16 {_number(peaks.fp16_tflops)} TFLOPS" + _narrow(peaks.fp16_narrow_tflops),
        f"INT8 {_number(peaks.int8_tops)} TOPS",
    ]
    if FP8 in precisions:
        parts.append(f"FP8 {_number(peaks.fp8_tflops)} TFLOPS" + _narrow(peaks.fp8_narrow_tflops))
    return ", ".join([*parts, f"{_number(peaks.bandwidth_gb_s)} GB/s"])


def _narrow(value: float | None) -> str:
    return "" if value is None else f" ({value:g} with sums in FP16)"


def _number(value: float | None) -> str:
    return _UNKNOWN if value is None else f"{value:g}"
