"""What a build is asked for: the caller's choices, and where there are none the target's.

Everything here is decided and refused before TensorRT is imported.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from engines.backends._provenance import Source
from engines.contract import BuildOptions, Progress
from engines.errors import InputError, UsageError
from engines.machine.jetson import JetsonIdentity
from engines.manifest import TensorSpec
from engines.targets import Target

Shape = tuple[int, ...]
Shapes = Mapping[str, tuple[Shape, Shape, Shape]]
"""Of each dynamic input: the smallest shape, the one that is tuned for, the largest."""

_RTX = "tensorrt_rtx"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """One build, every choice made.

    Attributes:
        shapes: See `Shapes`; empty for a static graph.
        batches: Smallest, tuned and largest batch; None for a static graph.
        compute_capabilities: What TensorRT-RTX builds for; empty for its portable plan, and for
            TensorRT, which builds for the GPU it runs on.
        optimization_level: Builder effort, 0 to 5; None leaves it to the runtime.
        workspace_bytes: Limit of scratch memory; None leaves it to the runtime.
        timing_cache: File of timings to start from and to keep.
        progress: See `BuildOptions.progress`.
    """

    shapes: Shapes
    batches: tuple[int, int, int] | None
    compute_capabilities: tuple[str, ...]
    optimization_level: int | None
    workspace_bytes: int | None
    timing_cache: Path | None = None
    progress: Progress | None = None


def request_for(source: Source, target: Target, options: BuildOptions) -> Request:
    """Return the build of a graph for a target.

    Raises:
        InputError: An extent is dynamic and its range is not known.
        UsageError: A batch is outside the graph's range, or an option is for the other flavour.
    """
    named = options.compute_capabilities
    if target.module != _RTX and named:
        raise UsageError(
            f"{target.module} builds for the GPU it runs on, not for {', '.join(named)}",
            where=target.name,
            fix="leave the compute capabilities out, or choose the target rtx",
        )
    if target.module == _RTX and options.timing_cache is not None:
        raise UsageError(
            "TensorRT-RTX times no kernels while it builds, it chooses them on the GPU that runs "
            "the plan; a timing cache would only make the build need a GPU",
            where=str(options.timing_cache),
            fix="leave the timing cache out",
        )
    inputs = source.manifest.inputs if source.manifest else source.header.inputs
    batches = batches_for(source, options.batches)
    return Request(
        shapes=profile_shapes(inputs, batches, where=str(source.path)),
        batches=batches,
        compute_capabilities=target.compute_capabilities
        if named is None
        else tuple(dict.fromkeys(named)),
        optimization_level=target.optimization_level
        if options.optimization_level is None
        else options.optimization_level,
        workspace_bytes=target.workspace_bytes
        if options.workspace_bytes is None
        else options.workspace_bytes,
        timing_cache=options.timing_cache,
        progress=options.progress,
    )


def batches_for(source: Source, wanted: tuple[int, int, int] | None) -> tuple[int, int, int] | None:
    """Return smallest, tuned and largest batch; by default the graph's range, tuned for its end.

    Raises:
        UsageError: The graph's batch is fixed, or `wanted` goes beyond the range it was exported
            for.
    """
    known = source.manifest.batch_range if source.manifest else None
    if wanted is None:
        return None if known is None else (*known, known[1])
    dynamic = any(isinstance(extent, str) for spec in source.header.inputs for extent in spec.shape)
    low, _, high = wanted
    if not dynamic or (known is not None and not known[0] <= low <= high <= known[1]):
        has = f"{known[0]} to {known[1]}" if known is not None else "a fixed batch"
        raise UsageError(
            f"batches of {low} to {high} were asked for; the graph has {has}",
            where=str(source.path),
            fix="leave the batches out, or export with --batch dyn:LOW-HIGH",
        )
    return wanted


def profile_shapes(
    inputs: Sequence[TensorSpec], batches: tuple[int, int, int] | None, *, where: str
) -> Shapes:
    """Return the smallest, the tuned and the largest shape of every dynamic input.

    Raises:
        InputError: An extent is dynamic and its range is not known, or it is not the first.
    """
    shapes: dict[str, tuple[Shape, Shape, Shape]] = {}
    for spec in inputs:
        dynamic = [axis for axis, extent in enumerate(spec.shape) if isinstance(extent, str)]
        if not dynamic:
            continue
        if dynamic != [0] or batches is None:
            raise InputError(
                f"{spec.name!r} has the shape {spec.shape}: TensorRT needs the range of "
                f"{spec.shape[dynamic[-1]]!r}",
                where=where,
                fix="export with --batch N or dyn:1-8 and keep its manifest beside it, or build "
                "with --batch 1:8:8",
            )
        rest = tuple(extent for extent in spec.shape if isinstance(extent, int))
        low, best, high = ((batch, *rest) for batch in batches)
        shapes[spec.name] = (low, best, high)
    return shapes


def require_release(version: str, target: Target) -> None:
    """Refuse a runtime of another version than the target's release stands for.

    Args:
        version: Version of what is installed.
        target: What is asked for.

    Raises:
        UsageError: With the release that fits what is installed, where there is one.
    """
    release, device = target.release, target.device
    if release is None or device is None or release.takes(version):
        return
    fitting = [
        one.name
        for one in device.releases
        if one.module == release.module and not one.refusal and one.takes(version)
    ]
    raise UsageError(
        f"{target.name} needs {release.module} {release.span}, installed is {version}",
        where=target.name,
        fix=f"name what is installed, from the export on: --target {device.name}@{fitting[-1]}"
        if fitting
        else f"install {release.module} {release.span}; no release of {device.name} has {version}",
    )


def require_device(compute_capability: str, board: JetsonIdentity | None, target: Target) -> None:
    """Refuse a machine that is not the target: TensorRT builds for the GPU it runs on.

    Args:
        compute_capability: Compute capability of this machine's GPU.
        board: What Jetson this machine is; None for none.
        target: What is asked for.

    Raises:
        UsageError: The GPU is of another generation, or this is another Jetson.
    """
    device = target.device
    if device is None:
        return
    gpu, what = device.gpu, ""
    if compute_capability not in (gpu.compute_capability, *gpu.other_spellings):
        what = (
            f"{target.name} has compute capability {gpu.compute_capability}, the GPU of this "
            f"machine has {compute_capability}"
        )
    elif board is not None and board.target is not None and device.board is not None:
        here = board.target.partition("@")[0]
        what = "" if here == device.name else f"{target.name} was asked for, this is {board.target}"
    if what:
        raise UsageError(
            f"{what}: TensorRT builds for the GPU it runs on",
            where=target.name,
            fix="build on the board or the card itself, or choose the target tensorrt for this "
            "machine",
        )


def board_facts(board: JetsonIdentity | None) -> dict[str, str]:
    """Return what a plan's manifest keeps of the Jetson that built it."""
    if board is None:
        return {}
    facts = {"board": board.model, "l4t": board.l4t, "jetpack": board.jetpack}
    return {name: value for name, value in facts.items() if value is not None}
