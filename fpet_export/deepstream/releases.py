"""Which DeepStream has which TensorRT: a plan loads only into the one that built it.

Sources: the pages Installation, Migration Guide and Release Notes of each release
(docs.nvidia.com/metropolis/deepstream/RELEASE/text/), README of 7.1, README.md of
github.com/NVIDIA/DeepStream for 9.1, and NVIDIA's requirements of 9.0 (github.com/NVIDIA/skills).
The JetPack of 9.2 was on no page that we read; it is that of 9.1, which has the same TensorRT.
On a Jetson DeepStream uses the TensorRT of JetPack, so the plan that was built there fits.
"""

from __future__ import annotations

import dataclasses

from engines.manifest import Runtime

LATEST = "9.2"
TENSORRT_MAJOR = 10
"""All releases up to `LATEST` call parts of TensorRT 10 that TensorRT 11 does not have."""


@dataclasses.dataclass(frozen=True)
class Release:
    """A release of DeepStream, with the JetPack and the TensorRT that it is made for.

    Attributes:
        deepstream: Its version.
        jetpack: JetPack that it installs on.
        jetson: (major, minor) of TensorRT there.
        x86: (major, minor) of TensorRT that it wants on x86-64.
    """

    deepstream: str
    jetpack: str
    jetson: tuple[int, int]
    x86: tuple[int, int]


RELEASES = (
    Release("7.1", "6.1", (10, 3), (10, 3)),
    Release("8.0", "7.0", (10, 13), (10, 9)),
    Release("9.0", "7.1", (10, 13), (10, 14)),
    Release("9.1", "7.2", (10, 16), (10, 16)),
    Release("9.2", "7.2", (10, 16), (10, 16)),
)


def fitting(runtime: Runtime) -> tuple[str, ...]:
    """Return the releases that have a plan's TensorRT, such as "7.1 (JetPack 6.1)".

    Args:
        runtime: Of the plan; its `machine` decides between a Jetson and x86-64.
    """
    version = version_of(runtime)
    if runtime.machine == "aarch64":
        return tuple(
            f"{one.deepstream} (JetPack {one.jetpack})" for one in RELEASES if one.jetson == version
        )
    return tuple(one.deepstream for one in RELEASES if one.x86 == version)


def version_of(runtime: Runtime) -> tuple[int, int]:
    """Return (major, minor) of the TensorRT that built a plan."""
    major, minor = runtime.version.split(".")[:2]
    return int(major), int(minor)
