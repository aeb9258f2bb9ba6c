"""What a build and its engine take of this machine's memory, said before the build begins."""

from __future__ import annotations

from pathlib import Path

from engines import precisions
from engines.machine.sources import text_of
from engines.manifest import Manifest
from engines.memory_plan import MemoryPlan, memory_plan
from engines.targets import Target
from fpet_export.reporter import Reporter

_MEMINFO = Path("/proc/meminfo")


def require_memory(
    graph: Path,
    manifest: Manifest | None,
    target: Target,
    reporter: Reporter,
    *,
    workspace_mb: int | None = None,
    batch: tuple[int, int, int] | None = None,
    meminfo: Path = _MEMINFO,
) -> MemoryPlan | None:
    """Say what a TensorRT build takes; None for other runtimes, of which nothing is known.

    Args:
        graph: What is built.
        manifest: Of the graph.
        target: Where the engine runs.
        reporter: Hears the estimate.
        workspace_mb: Limit of scratch memory in MiB; None is the target's.
        batch: Smallest, tuned and largest batch; None is the graph's range.
        meminfo: Where the kernel states memory; another file in tests.

    Raises:
        MachineError: The machine would kill the build.
    """
    if target.backend != "trt" or not graph.is_file():
        return None
    plan = memory_plan(
        weights=graph.stat().st_size if manifest is None else manifest.total_bytes,
        model=None if manifest is None else manifest.model,
        batch=_largest(manifest, batch),
        bytes_each=_bytes_each(manifest),
        workspace=target.workspace_bytes if workspace_mb is None else workspace_mb << 20,
        is_shared=target.device is not None and target.device.gpu.memory_is_shared,
        meminfo=text_of(meminfo),
    )
    plan.require_room(str(graph))
    advice = plan.advice()
    reporter.step("memory", plan.in_words(), passed=None if advice else True)
    if advice:
        reporter.step("memory", advice, passed=None)
    return plan


def _largest(manifest: Manifest | None, batch: tuple[int, int, int] | None) -> int:
    if batch is not None:
        return batch[2]
    if manifest is None:
        return 1
    if manifest.batch_range is not None:
        return manifest.batch_range[1]
    extent = manifest.inputs[0].shape[0] if manifest.inputs and manifest.inputs[0].shape else 1
    return extent if isinstance(extent, int) else 1


def _bytes_each(manifest: Manifest | None) -> int:
    """Return the bytes of a number between layers: four, or two in half precision and below."""
    return 4 if manifest is None or manifest.precision == precisions.FP32 else 2
