"""What each TensorRT reads and builds, and the releases of cards.

Sources: operators.md of onnx-tensorrt, by release, for opsets and operators; names in the Python
bindings of 10.3.0, 10.13.0, 11.4.0 and TensorRT-RTX 1.7.1 for precisions.
"""

from __future__ import annotations

import dataclasses

from engines.machine.jetpack import NEEDED
from engines.precisions import FP16, INT8
from engines.targets import Release
from engines.targets._precisions import ADA, TURING

NOT_MEASURED = "scale and last block as measured with TensorRT-RTX; not measured on this runtime"
LEVEL = "optimization level 3 is the builder's own default in every version; plans name it"


@dataclasses.dataclass(frozen=True)
class _Generation:
    """What TensorRT does from version `since` on, until the next generation.

    `opset` is what is written, `ceiling` the newest that it reads.
    """

    since: tuple[int, int]
    opset: int
    ceiling: int
    precisions: tuple[str, ...]
    source: str


_GENERATIONS = (
    _Generation(
        (8, 0), 17, 17, TURING,
        "opset: TensorRT 8.5 and 8.6 read up to 17 (onnx-tensorrt, operators.md); they know "
        "neither strong typing nor BF16 (the Python bindings of 8.6.1)",
    ),
    _Generation(
        (10, 0), 20, 20, ADA,
        "opset: TensorRT 10.0 to 10.8 read opsets 9 to 20 (onnx-tensorrt, operators.md)",
    ),
    _Generation(
        (10, 9), 20, 22, ADA,
        "opset: TensorRT 10.9 to 10.12 read opsets 9 to 22 (onnx-tensorrt, operators.md)",
    ),
    _Generation(
        (10, 13), 20, 24, ADA,
        "opset: TensorRT 10.13 to 10.16 read opsets 9 to 24 (reported by users of 10.13; 20 is "
        "what is written)",
    ),
    _Generation(
        (11, 0), 20, 24, ADA,
        "opset: TensorRT 11 reads what 10.16 read; 25 came with 11.5 (NVIDIA/TensorRT, release "
        "v11.5)",
    ),
)  # fmt: skip


def release(name: str, summary: str, versions: tuple[str, str], *sources: str) -> Release:
    """Return a release whose software facts are those of its oldest TensorRT."""
    major, minor = (int(part) for part in versions[0].split(".")[:2])
    facts = max(
        (one for one in _GENERATIONS if one.since <= (major, minor)), key=lambda one: one.since
    )
    return Release(
        name=name,
        summary=summary,
        module="tensorrt",
        versions=versions,
        opset=facts.opset,
        opset_ceiling=facts.ceiling,
        precisions=facts.precisions,
        sources=(*sources, facts.source, NOT_MEASURED, LEVEL),
        refusal=f"TensorRT {versions[0]} is too old, {NEEDED}" if major < 10 else "",
    )


RTX = Release(
    name="rtx",
    summary="TensorRT-RTX",
    module="tensorrt_rtx",
    versions=("1.0", "1"),
    opset=20,
    opset_ceiling=23,
    precisions=ADA,
    sources=(
        "opset: TensorRT-RTX 1.7.1 builds the frozen graph in opsets 17 to 23, the newest that is "
        "written here (measured)",
        "rtx: builds without a GPU and compiles for this generation alone (NVIDIA, CPU-Only AOT "
        "and TensorRT-RTX Engines)",
        "scale and last block: kernels of a ViT-B/16, see the target rtx",
        LEVEL,
    ),
)
RTX_TURING = dataclasses.replace(
    RTX,
    precisions=(FP16, INT8),
    sources=(
        *RTX.sources,
        "rtx precisions: no FP32 and no BF16 matrix products for 7.5, so FP16 and INT8 graphs "
        "build if they do not merge: a match is computed in float32 (measured, TensorRT-RTX 1.7.1)",
    ),
)
_ANY = "trt: what every TensorRT from 10.0 on reads, so that the installed version is free"
TRT = release("trt", "any TensorRT from 10.0", ("10.0", "11"), _ANY)
_BLACKWELL = "trt: TensorRT 10.8 is the first for GeForce 50 (its release notes)"
TRT_10_0 = release("trt10.0", "TensorRT 10.0 to 10.8", ("10.0", "10.8"))
TRT_10_9 = release("trt10.9", "TensorRT 10.9 to 10.12", ("10.9", "10.12"))
TRT_10_13 = release("trt10.13", "TensorRT 10.13 to 10.16", ("10.13", "10.16"))
TRT_11 = release("trt11.0", "TensorRT 11", ("11.0", "11"))

DATA_CENTRE = (TRT_10_0, TRT_10_9, TRT_10_13, TRT_11, TRT)
"""Turing to Hopper, without TensorRT-RTX."""

CARDS = (*DATA_CENTRE, RTX)
"""Ampere and Ada."""

TURING_CARDS = (*DATA_CENTRE, RTX_TURING)

BLACKWELL_CARDS = (
    release("trt10.8", "TensorRT 10.8", ("10.8", "10.8"), _BLACKWELL),
    TRT_10_9,
    TRT_10_13,
    TRT_11,
    release("trt", "any TensorRT from 10.8", ("10.8", "11"), _BLACKWELL),
    RTX,
)

GB10 = (
    TRT_10_13,
    TRT_11,
    release(
        "trt", "any TensorRT from 10.13", ("10.13", "11"),
        "trt: which TensorRT was the first for 12.1 is not published; 10.13 is the first with CUDA "
        "13 (its release notes)",
    ),
    dataclasses.replace(RTX, versions=("1.5", "1")),
)  # fmt: skip

DEFAULT_TRT = (
    "default release trt: servers have the TensorRT of their container or driver, and the graph "
    "for it is the one that every version from 10.0 on reads"
)
DEFAULT_RTX = (
    "default release rtx: it is made for RTX cards and is the one that also builds without a GPU"
)
