"""What a GPU's own state says against believing a measurement that ran on it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

from benchmarks.conditions.gpu_state import BY_HARDWARE, GpuUse, Listed
from benchmarks.conditions.validity import Finding
from benchmarks.latency import Progress

_CLOCK_MOVED = 0.05
_FIX = "let the GPU cool down and keep other work off it; nvidia-smi -q -d PERFORMANCE shows more"


@dataclasses.dataclass
class GpuMeter:
    """Reads a GPU at both ends of the measured rounds.

    The driver answers in some 50 ms, so it is asked between rounds, never inside one: after the
    first measured round, when the clocks have risen, and after the last.

    Attributes:
        read: Reads the GPU; None where it is not certain which one runs.
    """

    read: Callable[[], Listed | None]
    _before: Listed | None = None

    def watching(self, progress: Progress | None) -> Progress:
        """Return a progress callback that also takes the first reading."""

        def report(phase: str, done: int, total: int) -> bool:
            if phase == "measure" and done == 1:
                self._before = self.read()
            return True if progress is None else progress(phase, done, total)

        return report

    def use(self) -> GpuUse | None:
        """Take the last reading, and return both; None where one of them is missing."""
        after = self.read()
        if self._before is None or after is None:
            return None
        return GpuUse(gpu=after.gpu, before=self._before.state, after=after.state)


def check_gpu(use: GpuUse | None, *, board: str | None) -> tuple[Finding, ...]:
    """Return what speaks against believing rounds that ran on a GPU.

    Args:
        use: Its state; None where nobody tells.
        board: Name of an embedded board, whose driver tells nothing of all this.
    """
    if use is not None:
        return (*_held_back(use), *_moved(use))
    if board is not None:
        return ()
    return (
        Finding(
            severity="doubtful",
            what="which GPU ran, and at which clocks, is not known: nvidia-smi does not show it",
            fix="make nvidia-smi work here; with several GPUs, choose one by its UUID in"
            " CUDA_VISIBLE_DEVICES",
        ),
    )


def _held_back(use: GpuUse) -> Iterator[Finding]:
    reasons = dict.fromkeys((*use.before.held_back_by(), *use.after.held_back_by()))
    if not reasons:
        return
    mask = (use.before.reasons or 0) | (use.after.reasons or 0)
    by_hardware = bool(mask & BY_HARDWARE)
    end = "" if by_hardware else "; paired ratios cancel it out"
    yield Finding(
        severity="invalid" if by_hardware else "doubtful",
        what=f"the clocks of {use.gpu.name} were held back by {' and '.join(reasons)}{end}",
        fix=_FIX,
    )


def _moved(use: GpuUse) -> Iterator[Finding]:
    for name, before, after in (
        ("SM", use.before.sm_mhz, use.after.sm_mhz),
        ("memory", use.before.memory_mhz, use.after.memory_mhz),
    ):
        if before and after and abs(after / before - 1) > _CLOCK_MOVED:
            yield Finding(
                severity="doubtful",
                what=f"the {name} clock of {use.gpu.name} went from {before} to {after} MHz during"
                " the measurement; paired ratios cancel it out",
                fix=f"lock it: sudo nvidia-smi -lgc {min(before, after)}"
                if name == "SM"
                else f"lock it: sudo nvidia-smi -lmc {min(before, after)}",
            )
