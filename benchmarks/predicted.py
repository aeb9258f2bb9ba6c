"""Measured latencies beside what was predicted of them, and as rows to fit predictions to."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from benchmarks.conditions.devices import runs_on_gpu
from benchmarks.measurement import Predicted
from benchmarks.place import board_of
from benchmarks.prediction.constants import start_of
from benchmarks.prediction.fit import Row
from benchmarks.prediction.hardware import Hardware, hardware_of
from benchmarks.prediction.roofline import predict
from engines.errors import FpetError
from engines.targets import Device, _lookup

if TYPE_CHECKING:
    from benchmarks.measurement import ContenderResult, Measurement


def with_predictions(measurement: Measurement) -> Measurement:
    """Return a measurement with what would have been predicted of each contender.

    Nothing is predicted where the device, its power mode, its peaks or the network are not known,
    and for the CPU.
    """
    contenders = tuple(
        dataclasses.replace(result, predicted=_predicted(measurement, result))
        for result in measurement.contenders
    )
    return dataclasses.replace(measurement, contenders=contenders)


def rows_of(measurements: Sequence[Measurement]) -> Iterator[Row]:
    """Yield what valid measurements say of devices whose peaks are known.

    The GPU's own clock counts where it was read: a prediction knows nothing of copies and waits.
    """
    for measurement in measurements:
        for result in measurement.contenders if measurement.valid else ():
            hardware = hardware_behind(measurement, result)
            network = None if result.artefact is None else result.artefact.network
            if hardware is None or network is None or result.artefact is None:
                continue
            yield Row(
                network=network,
                hardware=hardware,
                precision=result.artefact.precision,
                batch=measurement.batch,
                measured_ms=(result.device_p50_ns or result.latency.p50_ns) / 1e6,
            )


def hardware_behind(measurement: Measurement, result: ContenderResult) -> Hardware | None:
    """Return the peaks of what a contender ran on; None where they are not known."""
    device = _device(measurement, result)
    if device is None or result.artefact is None:
        return None
    conditions = measurement.conditions
    mode: str | None = ""
    if device.board is not None:
        mode = None if conditions is None else conditions.power_mode
    try:
        return None if mode is None else hardware_of(device, mode, result.artefact.precision)
    except FpetError:
        return None


def _predicted(measurement: Measurement, result: ContenderResult) -> Predicted | None:
    hardware = hardware_behind(measurement, result)
    artefact = result.artefact
    if hardware is None or artefact is None or artefact.network is None:
        return None
    start = start_of(is_board=hardware.is_board)
    found = predict(
        artefact.network, hardware, start, precision=artefact.precision, batch=measurement.batch
    )
    return Predicted(
        low_ns=round(found.low_ms * 1e6),
        high_ns=round(found.high_ms * 1e6),
        device=hardware.name,
        source=start.source,
    )


def _device(measurement: Measurement, result: ContenderResult) -> Device | None:
    """Return the board or the card that a contender ran on; None where it is not certain."""
    if not runs_on_gpu(result.runtime):
        return None
    if measurement.environment.board is not None:
        return board_of(measurement, result)
    gpus = [measurement.gpu.gpu] if measurement.gpu else list(measurement.environment.gpus)
    return _lookup.card(gpus[0].name) if len(gpus) == 1 else None
