"""Where a contender ran and with what, in short words for rows and one-line summaries."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

from benchmarks.conditions.devices import gpu_name, runs_on_gpu
from engines.targets import Device, _lookup

if TYPE_CHECKING:
    from benchmarks.measurement import ContenderResult, Measurement

_RUNTIMES = {
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "tensorrt": "TensorRT",
    "tensorrt_rtx": "TensorRT-RTX",
    "torch": "PyTorch",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Place:
    """Where a contender ran.

    Attributes:
        device: The board, the GPU, or the CPU with its threads.
        mode: Power mode of a board; "" where it has none or it is not known.
        software: JetPack where it is known, else the runtime with its version.
    """

    device: str
    mode: str
    software: str

    @property
    def name(self) -> str:
        """The device with its mode."""
        return f"{self.device} {self.mode}" if self.mode else self.device


def place_of(measurement: Measurement, result: ContenderResult) -> Place:
    """Return where a contender ran."""
    conditions, jetpack = measurement.conditions, measurement.environment.jetpack
    return Place(
        device=_device(measurement, result),
        mode=(conditions.power_mode if conditions is not None else None) or "",
        software=f"JetPack {jetpack}" if jetpack else _runtime(result.runtime),
    )


def board_of(measurement: Measurement, result: ContenderResult) -> Device | None:
    """Return the board that was measured; None where it is none, or not known.

    Where its module does not say it, the engine does: it opens on no board that it was not built
    for.
    """
    if measurement.environment.board is None:
        return None
    built_for = "" if result.artefact is None else result.artefact.target.partition("@")[0]
    name = measurement.environment.device or built_for
    entry = _lookup.entry(name) if name in _lookup.target_names() else None
    return entry if isinstance(entry, Device) and entry.board is not None else None


def _runtime(runtime: Mapping[str, str]) -> str:
    name, version = runtime.get("runtime", ""), runtime.get("version", "")
    return f"{_RUNTIMES.get(name, name)} {version.partition('+')[0]}".strip()


def _device(measurement: Measurement, result: ContenderResult) -> str:
    environment, runtime = measurement.environment, result.runtime
    if runs_on_gpu(runtime):
        board = board_of(measurement, result)
        if board is not None:
            return board.summary
        return gpu_name(environment, measurement.gpu, runtime.get("device", "a GPU"))
    threads = runtime.get("threads", "")
    cpu = environment.cpu if environment.board is None else f"{environment.board}, CPU"
    return f"{cpu}, {threads} threads" if threads.isdecimal() and threads != "1" else cpu
