"""The line for NVIDIA's own tool that builds what this toolkit builds."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

Shapes = Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]


def trtexec_line(
    onnx: Path,
    plan: Path,
    *,
    module: str,
    shapes: Shapes | None = None,
    compute_capabilities: Sequence[str] = (),
    optimization_level: int | None = None,
    workspace_bytes: int | None = None,
    weak_flags: Sequence[str] | None = None,
    float32_layers: Sequence[str] = (),
) -> str:
    """Return a shell line for `trtexec`, or for `tensorrt_rtx`, with the settings of our build.

    `--stronglyTyped` is needed by TensorRT 10 and has no effect on 11. The line has not been run:
    the tools are not part of the Python packages.

    Args:
        onnx: The graph.
        plan: What to write.
        module: "tensorrt" or "tensorrt_rtx".
        shapes: Smallest and largest shape of each dynamic input.
        compute_capabilities: As "8.6"; TensorRT-RTX only.
        optimization_level: Builder effort, 0 to 5.
        workspace_bytes: Limit of scratch memory.
        weak_flags: Builder flags of a weakly typed build, as "FP16"; None is a strongly typed one.
        float32_layers: Layers that a weakly typed build holds in float32.
    """
    is_rtx = module == "tensorrt_rtx"
    words = ["tensorrt_rtx" if is_rtx else "trtexec", f"--onnx={onnx}", f"--saveEngine={plan}"]
    if weak_flags is not None:
        words += _weak_words(weak_flags, float32_layers)
    elif not is_rtx:
        words.append("--stronglyTyped")
    words += ["--noTF32", "--maxAuxStreams=0", "--profilingVerbosity=detailed", "--skipInference"]
    if compute_capabilities and is_rtx:
        numbers = ",".join(name.replace(".", "") for name in compute_capabilities)
        words.append(f"--computeCapabilities={numbers}")
    if optimization_level is not None:
        words.append(f"--builderOptimizationLevel={optimization_level}")
    if workspace_bytes is not None:
        words.append(f"--memPoolSize=workspace:{workspace_bytes / 2**20:g}M")
    if shapes:
        ranges = zip(("min", "opt", "max"), (0, 1, 1), strict=True)
        words += [f"--{name}Shapes={_shape_list(shapes, end)}" for name, end in ranges]
    return shlex.join(words)


def _weak_words(flags: Sequence[str], float32_layers: Sequence[str]) -> list[str]:
    words = [f"--{flag.lower()}" for flag in flags]
    if float32_layers:
        layers = ",".join(f"{name}:fp32" for name in float32_layers)
        words += ["--precisionConstraints=obey", f"--layerPrecisions={layers}"]
        words.append(f"--layerOutputTypes={layers}")
    return words


def _shape_list(shapes: Shapes, end: int) -> str:
    return ",".join(f"{name}:{'x'.join(map(str, ends[end]))}" for name, ends in shapes.items())
