"""Where a contender ran and with what, in short words for rows and one-line summaries."""

from __future__ import annotations

import dataclasses
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
    runtime = result.runtime
    version = runtime.get("version", "")
    name = runtime.get("runtime", "")
    software = f"{_RUNTIMES.get(name, name)} {version.partition('+')[0]}".strip()
    return Place(device=_device(measurement, result), mode="", software=software)


def _device(measurement: Measurement, result: ContenderResult) -> str:
    environment, runtime = measurement.environment, result.runtime
    if runs_on_gpu(runtime):
        board = None if environment.board is None else _board(result)
        if board is not None:
            return board.summary
        return gpu_name(environment, measurement.gpu, runtime.get("device", "a GPU"))
    threads = runtime.get("threads", "")
    cpu = environment.cpu if environment.board is None else f"{environment.board}, CPU"
    return f"{cpu}, {threads} threads" if threads.isdecimal() and threads != "1" else cpu


def _board(result: ContenderResult) -> Device | None:
    """Return the board that an engine was built for; it opens on no other."""
    name = "" if result.artefact is None else result.artefact.target.partition("@")[0]
    entry = _lookup.entry(name) if name in _lookup.target_names() else None
    return entry if isinstance(entry, Device) and entry.board is not None else None
