"""The line for NVIDIA's own tool that builds what this toolkit builds."""

from __future__ import annotations

import shlex
from pathlib import Path

from engines.backends._trt.request import Request, Shapes


def trtexec_line(
    onnx: Path,
    plan: Path,
    request: Request,
    *,
    module: str,
    version: str | None = None,
) -> str:
    """Return a shell line for `trtexec`, or for `tensorrt_rtx`, with the settings of a build.

    The line has not been run: the tools are not part of the Python packages. Its options are
    those of trtexec's own source, `samples/common/sampleOptions.cpp` of NVIDIA/TensorRT from 10.3
    to 11.1; that of tensorrt_rtx is not published.

    Args:
        onnx: The graph.
        plan: What to write.
        request: The build.
        module: "tensorrt" or "tensorrt_rtx".
        version: Version of the module, as "10.3.0" or "11"; None where it is open. TensorRT 10 has
            to be told to type strongly; 11 knows nothing else and takes the option without effect.
    """
    is_rtx = module == "tensorrt_rtx"
    words = ["tensorrt_rtx" if is_rtx else "trtexec", f"--onnx={onnx}", f"--saveEngine={plan}"]
    if not is_rtx and _major(version) < 11:
        words.append("--stronglyTyped")
    words += ["--noTF32", "--maxAuxStreams=0", "--profilingVerbosity=detailed", "--skipInference"]
    if request.compute_capabilities and is_rtx:
        numbers = ",".join(name.replace(".", "") for name in request.compute_capabilities)
        words.append(f"--computeCapabilities={numbers}")
    if request.optimization_level is not None:
        words.append(f"--builderOptimizationLevel={request.optimization_level}")
    if request.workspace_bytes is not None:
        words.append(f"--memPoolSize=workspace:{request.workspace_bytes / 2**20:g}")
    if request.timing_cache is not None:
        words.append(f"--timingCacheFile={request.timing_cache}")
    if request.shapes:
        ends = zip(("min", "opt", "max"), range(3), strict=True)
        words += [f"--{name}Shapes={_shape_list(request.shapes, end)}" for name, end in ends]
    return shlex.join(words)


def _major(version: str | None) -> int:
    return 0 if version is None else int(version.partition(".")[0])


def _shape_list(shapes: Shapes, end: int) -> str:
    return ",".join(f"{name}:{'x'.join(map(str, ends[end]))}" for name, ends in shapes.items())
