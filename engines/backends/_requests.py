"""What every runtime on a CPU checks of a request before it starts."""

from __future__ import annotations

from pathlib import Path

from engines.contract import BuildOptions, OpenOptions
from engines.errors import EngineError, TrustError, UsageError
from engines.machine import processor
from engines.manifest import Manifest, Runtime
from engines.targets import Target


def refuse_gpu_options(options: BuildOptions, target: Target, *, takes_level: bool = False) -> None:
    """Refuse the build options that only TensorRT can honour.

    Args:
        options: As they were asked for.
        target: What is built for.
        takes_level: Whether the target's compiler has optimization levels, too.

    Raises:
        UsageError: One of them is set.
    """
    for value, option in (
        (options.compute_capabilities, "compute capabilities"),
        (None if takes_level else options.optimization_level, "optimization level"),
        (options.workspace_bytes, "workspace limit"),
        (options.batches, "range of batches"),
        (options.timing_cache, "timing cache"),
    ):
        if value is not None:
            raise UsageError(
                f"the target {target.name} takes no {option}",
                where=target.name,
                fix="leave the option out, or choose a TensorRT target",
            )


def refuse_zero_copy(options: OpenOptions, where: str) -> None:
    """Refuse an option that only a plan can honour.

    Raises:
        UsageError: The host's memory is to be used by the GPU itself.
    """
    if options.zero_copy:
        raise UsageError(
            "only a plan of TensorRT can let the GPU use the host's memory",
            where=where,
            fix="leave zero-copy out, or build the graph for a TensorRT target",
        )


def thread_count(threads: int | None) -> int:
    """Return the CPU threads to use; by default the physical cores this process may use.

    Raises:
        UsageError: Fewer than one are asked for.
    """
    if threads is not None and threads < 1:
        raise UsageError(
            f"threads is {threads}, wanted 1 or more", where="threads", fix="give a positive number"
        )
    return threads or processor.usable_cores()


def built_by(artefact: Path, manifest: Manifest, flavour: str) -> Runtime:
    """Return what an engine is bound to.

    Raises:
        TrustError: Its manifest names another runtime than `flavour`.
    """
    runtime = manifest.runtime
    if runtime is None or runtime.flavour != flavour:
        raise TrustError(
            f"its manifest says that {runtime.flavour if runtime else 'no runtime'} built it, "
            f"not {flavour}",
            where=str(artefact),
            fix="build it again from its graph",
        )
    return runtime


def report(options: BuildOptions, phase: str, done: int) -> None:
    """Tell the caller that a phase begins (0) or is over (1).

    Raises:
        EngineError: The caller cancels the build.
    """
    if options.progress is not None and not options.progress(phase, done, 1):
        raise EngineError(
            "the build was cancelled", where=phase, fix="start it again when you are ready"
        )
