"""Where an engine runs: one data file a target, every fact with its source, no code.

Two kinds of entries:

* A `Target` is a runtime, and which GPU it meets is left open: `cpu`, `rtx`, `tensorrt`.
* A `Device` is a GPU or a board, such as a Jetson Orin Nano. It becomes a target together with a
  `Release`, the software on it: `jetson-orin-nano-8gb@jp6.2`.

`engines.targets._lookup` finds both by name. Shared facts of a family stand once, in a file whose
name starts with an underscore.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Literal

from engines.errors import UnknownNameError
from engines.near_names import did_you_mean

__all__ = [
    "TENSOR_CORE_TILE",
    "Device",
    "Gpu",
    "JetsonModule",
    "Peaks",
    "PowerRails",
    "Release",
    "Target",
    "tiled_rows",
]


TENSOR_CORE_TILE = 128
"""Rows of the usual tile of a product on tensor cores: 99 tokens take one, 129 take two."""


def tiled_rows(rows: int, tile: int) -> int:
    """Return how many rows cost as much as `rows`: those of whole tiles."""
    return -(-rows // tile) * tile


@dataclasses.dataclass(frozen=True, kw_only=True)
class Peaks:
    """What a GPU computes and moves at most, dense and without DLAs; None is not published.

    Attributes:
        mode: Power mode in which these hold, as `nvpmodel` names it; "" where there are none.
        multiprocessors: Streaming multiprocessors that are on in that mode.
        fp16_tflops: Tensor cores, sums in float32.
        int8_tops: Tensor cores.
        fp8_tflops: Tensor cores, sums in float32.
        fp16_narrow_tflops: Sums in float16, where that is faster (GeForce).
        fp8_narrow_tflops: Likewise.
        bandwidth_gb_s: Bandwidth of its memory, 10^9 bytes a second.
    """

    mode: str = ""
    multiprocessors: int | None = None
    fp16_tflops: float | None = None
    int8_tops: float | None = None
    fp8_tflops: float | None = None
    fp16_narrow_tflops: float | None = None
    fp8_narrow_tflops: float | None = None
    bandwidth_gb_s: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU.

    Attributes:
        compute_capability: As "8.7".
        other_spellings: What some CUDA versions call the same generation.
        precisions: What its tensor cores compute in.
        memory_gb: As the vendor states it; the smallest where there are several sizes.
        memory_is_shared: Whether the CPU works in the same memory.
        peaks: By power mode, the fastest first.
    """

    compute_capability: str
    precisions: tuple[str, ...]
    memory_gb: int
    peaks: tuple[Peaks, ...]
    memory_is_shared: bool = False
    driver_names: tuple[str, ...] = ()
    other_spellings: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class PowerRails:
    """The rails whose power a board measures.

    Attributes:
        total: Add these for the power of the module. A rail that is a part of another is never
            among them.
        parts: Rails that are contained in `total`: for a breakdown only.
    """

    total: tuple[str, ...]
    parts: tuple[str, ...] = ()

    @property
    def rule(self) -> str:
        """Say in words what makes the total."""
        return f"total = {' + '.join(self.total)}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class JetsonModule:
    """What a Jetson module has beside its GPU.

    Attributes:
        modules: Part numbers in `/proc/device-tree/compatible`, as "p3767-0003".
        power_modes: Names that `nvpmodel` knows. Their numbers differ between JetPacks.
        rails: Its power sensors.
    """

    modules: tuple[str, ...]
    power_modes: tuple[str, ...]
    rails: PowerRails


@dataclasses.dataclass(frozen=True, kw_only=True)
class Release:
    """Software for a device, under one name: a JetPack, a TensorRT, or TensorRT-RTX.

    Attributes:
        name: What stands behind the `@`: "jp6.2", "trt10.9", "rtx".
        summary: For tables.
        module: Python package of the runtime; see `Target.module`.
        versions: Oldest and newest version of `module` that it stands for; "11" is every 11.x.
        opset: See `Target.opset`.
        opset_ceiling: See `Target.opset_ceiling`.
        precisions: What the software builds; a device with less narrows it.
        sources: Where each fact comes from, one sentence each.
        refusal: Why nothing is exported or built for it; "" where it is supported.
    """

    name: str
    summary: str
    module: str
    versions: tuple[str, str]
    opset: int
    opset_ceiling: int
    precisions: tuple[str, ...]
    sources: tuple[str, ...]
    refusal: str = ""

    def takes(self, version: str) -> bool:
        """Whether `version` of the runtime, as "10.3.0", belongs to this release."""
        oldest, newest = (_numbers(end) for end in self.versions)
        found = _numbers(version)
        return found[: len(oldest)] >= oldest and found[: len(newest)] <= newest

    @property
    def span(self) -> str:
        """Say which versions it stands for, as "10.3 to 10.7" or "11.4.1 to 11.x"."""
        oldest, newest = self.versions
        end = newest if "." in newest else f"{newest}.x"
        return oldest if oldest == newest else f"{oldest} to {end}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    """One place to run.

    Attributes:
        name: What `--target` takes and manifests keep; a device's has its release, as in
            "jetson-orin-nano-8gb@jp6.2".
        summary: One line for the table of targets.
        backend: Name of the file in `engines/backends/`.
        module: Python package of the runtime ("onnxruntime", "openvino", "tensorrt",
            "tensorrt_rtx", "torch"); a manifest's `runtime.flavour`.
        suffix: Ending of the artefact: ".plan" for TensorRT, ".pt2" for PyTorch, else ".onnx".
        opset: ONNX opset that the runtime reads and that suits it best.
        opset_ceiling: Newest opset that the oldest supported version of the runtime reads.
        attention_scale: "split" scales q and k by d^(-1/4) each; "folded" puts d^(-1/2) into
            the query weights.
        last_block: "class-token" computes in the last block only what the head reads;
            "all-tokens" keeps the block uniform.
        precisions: What its graphs may be typed as.
        tile: Rows of a matrix product that cost as much as one: tiles of a GPU's tensor cores.
        integers: How INT8 is written for it: "pairs" puts Q/DQ pairs around tensors of a
            half-precision graph, "gemm" makes integer products with integer biases in a float32
            graph.
        int8_weights: Range of INT8 weights that its runtime multiplies exactly on every machine it
            may meet: "full", or "reduced" to magnitudes up to 64.
        compute_capabilities: GPU generations to build for when the caller names none, as "8.6";
            empty where the runtime builds for the GPU it runs on.
        optimization_level: TensorRT's builder effort, 0 to 5; None for other runtimes.
        workspace_bytes: Upper limit of scratch memory while building; None leaves it to the
            runtime.
        device: The GPU or board; None where that is left open.
        release: Its software.
        sources: Where each fact comes from, one sentence each.
    """

    name: str
    summary: str
    backend: str
    module: str
    suffix: str
    opset: int
    opset_ceiling: int
    attention_scale: Literal["split", "folded"]
    last_block: Literal["class-token", "all-tokens"]
    precisions: tuple[str, ...]
    sources: tuple[str, ...]
    tile: int = 1
    integers: Literal["pairs", "gemm"] = "pairs"
    int8_weights: Literal["full", "reduced"] = "full"
    compute_capabilities: tuple[str, ...] = ()
    optimization_level: int | None = None
    workspace_bytes: int | None = None
    device: Device | None = None
    release: Release | None = None

    @property
    def file_name(self) -> str:
        """The name for files and folders: "jetson-orin-nano-8gb-jp6.2"."""
        return self.name.replace("@", "-")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Device:
    """A GPU or a board, and the software that it may run.

    Attributes:
        name: The file's name with hyphens.
        summary: One line for the table of targets.
        gpu: Its GPU.
        releases: From old to new.
        default: Name of the release that is meant when none is named.
        sources: Where each fact comes from, one sentence each, beginning with the fact's name; a
            fact that is not published has a sentence that says so.
        board: What a Jetson has beside the GPU; None for a card.
    """

    name: str
    summary: str
    gpu: Gpu
    releases: tuple[Release, ...]
    default: str
    sources: tuple[str, ...]
    board: JetsonModule | None = None

    @property
    def workspace_bytes(self) -> int | None:
        """A quarter of memory that the CPU shares; None for a card, whose memory is its own.

        On a shared memory of 8 GB the system, the weights (0.35 GB of a ViT-B/16 in float32, held
        twice while building) and the builder itself need the rest.
        """
        return (self.gpu.memory_gb << 30) // 4 if self.gpu.memory_is_shared else None

    def at(self, name: str | None = None) -> Target:
        """Return the target that this device is with a release, by default with its usual one.

        Raises:
            UnknownNameError: It has no release of this name.
        """
        release = self.release(self.default if name is None else name)
        is_rtx = release.module == "tensorrt_rtx"
        return Target(
            name=f"{self.name}@{release.name}",
            summary=f"{self.summary}, {release.summary}",
            backend="trt",
            module=release.module,
            suffix=".plan",
            opset=release.opset,
            opset_ceiling=release.opset_ceiling,
            attention_scale="split",
            last_block="all-tokens",
            tile=TENSOR_CORE_TILE,
            precisions=tuple(p for p in release.precisions if p in self.gpu.precisions),
            compute_capabilities=(self.gpu.compute_capability,) if is_rtx else (),
            optimization_level=3,
            workspace_bytes=self.workspace_bytes,
            device=self,
            release=release,
            sources=(*self.sources, *release.sources),
        )

    def release(self, name: str) -> Release:
        """Return the release of this name; "trt10.3" is found in the one that stands for 10.3.

        Raises:
            UnknownNameError: There is none; the known ones are listed.
        """
        by_name = {release.name: release for release in self.releases}
        if name in by_name:
            return by_name[name]
        if re.fullmatch(r"trt\d+\.\d+", name):
            version = name[3:]
            for release in self.releases:
                if release.name.startswith("trt") and release.takes(version):
                    return dataclasses.replace(
                        release,
                        name=name,
                        summary=f"TensorRT {version}",
                        versions=(version, version),
                    )
        raise UnknownNameError(
            f"{self.name} has no release {name!r}, it has {', '.join(by_name)}",
            where=f"{self.name}@{name}",
            fix=did_you_mean(
                f"{self.name}@{name}",
                [f"{self.name}@{one}" for one in by_name],
                otherwise="name one of these",
            ),
        )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))
