"""`estimate`: what a network would take on devices that are not here, merged and plain."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

from benchmarks.measurement_file import read_measurements
from benchmarks.network import Network, network_of
from benchmarks.predicted import rows_of
from benchmarks.prediction.constants import Calibration, start_of
from benchmarks.prediction.fit import Row, calibrate
from benchmarks.prediction.hardware import Hardware, hardware_of, modes_of
from benchmarks.prediction.roofline import Prediction, predict
from engines import precisions
from engines.commands import command
from engines.errors import InputError, UsageError
from engines.manifest import NO_TARGET, Manifest, manifest_path, read_manifest
from engines.near_names import did_you_mean
from engines.targets import Device, _lookup
from fpet_export.reporter import SILENT, Reporter
from fpet_export.request_fields import judged_by, require_sizes
from fpet_export.requests import Request
from fpet_export.workflow import estimate_text

_EXAMPLE = "jetson-orin-nano-8gb"


def _require_typed(value: tuple[str, ...], where: str) -> None:
    """Refuse what tensor cores do not compute in."""
    known = get_args(precisions.TypedName)
    for name in value:
        if name not in known:
            raise UsageError(
                f"{name!r} is not one of {', '.join(known)}",
                where=where,
                fix=did_you_mean(name, known, otherwise="choose one of the names above"),
            )
    if not value:
        raise UsageError("no precision is named", where=where, fix=f"name one, as {known[0]}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EstimateRequest(Request):
    """A network, and what it would run on.

    Attributes:
        artefact: A graph or an engine, whose manifest describes the network.
        target: Boards and GPUs; None is what the artefact was made for.
        power_mode: Of a board; None takes every mode whose peaks are published.
        precision: Of the engines; None is the artefact's own.
        batches: Images of one run; None is the artefact's own batch, or the smallest.
        measured: Measurements, or folders of them, to fit the constants of their devices to.
    """

    artefact: Path
    target: tuple[str, ...] | None = None
    power_mode: str | None = None
    precision: tuple[str, ...] | None = judged_by(_require_typed)
    batches: tuple[int, ...] | None = judged_by(require_sizes)
    measured: tuple[Path, ...] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
    """One device, precision and batch.

    Attributes:
        hardware: The device in a power mode.
        precision: Of the engine.
        batch: Images of one run.
        plain: The network without merging.
        merged: As its tokens merge; None where none do.
        calibration: Where the constants come from.
    """

    hardware: Hardware
    precision: str
    batch: int
    plain: Prediction
    merged: Prediction | None
    calibration: Calibration

    @property
    def ratio(self) -> float | None:
        """Of the merged network over the plain one, in the middle; None without merging."""
        return None if self.merged is None else self.merged.middle_ms / self.plain.middle_ms

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "kind": "prediction",
            "device": self.hardware.device,
            "power_mode": self.hardware.mode or None,
            "precision": self.precision,
            "batch": self.batch,
            "plain": _document(self.plain),
            "merged": None if self.merged is None else _document(self.merged),
            "ratio": self.ratio,
            "constants": dataclasses.asdict(self.calibration),
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimated:
    """What was predicted.

    Attributes:
        network: What runs.
        estimates: In the order of targets, modes, precisions and batches.
        left_out: What could not be predicted, and why, in words.
        next: Commands to type next.
    """

    network: Network
    estimates: tuple[Estimate, ...]
    left_out: tuple[str, ...]
    next: tuple[str, ...] = ()

    @property
    def lines(self) -> tuple[str, ...]:
        """A sentence for each estimate."""
        return tuple(estimate_text.sentence(self.network, one) for one in self.estimates)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "network": {"name": self.network.name, **dataclasses.asdict(self.network)},
            "predictions": [one.to_json() for one in self.estimates],
            "left_out": list(self.left_out),
        }


def estimate(request: EstimateRequest, reporter: Reporter = SILENT) -> Estimated:
    """Predict what a network would take, and show it.

    Raises:
        InputError: The artefact has no manifest that describes its network, or a measurement
            cannot be read.
        UsageError: A target is no board or GPU, or nothing is known of what is asked for.
        TrustError: The artefact does not match its manifest.
    """
    manifest = _manifest(request.artefact)
    network = network_of(manifest)
    assert network is not None, "a manifest was asked for that describes one"
    devices = _devices(request, manifest)
    kinds = request.precision or (_own_precision(manifest, request.artefact),)
    sizes = request.batches or (_own_batch(manifest),)
    rows = list(_rows(request.measured or ()))
    estimates, left_out = [], []
    for device in devices:
        for precision in kinds:
            hardware, left = _hardware(device, request.power_mode, precision)
            left_out += left
            for one in hardware:
                calibration = _calibration(one, rows)
                for batch in sizes:
                    estimates.append(_estimate(network, one, calibration, precision, batch))
    if not estimates:
        raise UsageError(
            f"nothing can be predicted: {'; '.join(left_out)}",
            where="--target",
            fix="name another target or precision; `fpet-export targets NAME` shows the peaks",
        )
    _refuse_unused(request, rows, estimates)
    found = Estimated(
        network=network,
        estimates=tuple(estimates),
        left_out=tuple(dict.fromkeys(left_out)),
        next=tuple(_next(request.artefact, estimates)),
    )
    estimate_text.show(found, reporter)
    return found


def _manifest(artefact: Path) -> Manifest:
    manifest = read_manifest(artefact) if manifest_path(artefact).is_file() else None
    if manifest is None or network_of(manifest) is None:
        raise InputError(
            f"nothing says what network {artefact.name} is",
            where=str(artefact),
            fix="name a graph that `fpet-export export` wrote, or an engine that was built of one",
        )
    return manifest


def _own_precision(manifest: Manifest, artefact: Path) -> str:
    if manifest.precision in get_args(precisions.TypedName):
        return manifest.precision
    raise UsageError(
        f"{artefact.name} is in {manifest.precision.upper()}, in which tensor cores do not compute",
        where="--precision",
        fix=f"say what would be built: --precision {precisions.FP16}",
    )


def _own_batch(manifest: Manifest) -> int:
    if manifest.batch_range is not None:
        return manifest.batch_range[0]
    first = manifest.inputs[0].shape[0]
    return first if isinstance(first, int) else 1


def _devices(request: EstimateRequest, manifest: Manifest) -> list[Device]:
    """Return the boards and GPUs that are asked for.

    Raises:
        UsageError: One is a runtime that leaves the GPU open, or the CPU, which has no peaks.
    """
    found = []
    for name in dict.fromkeys(request.target or (manifest.target,)):
        device = None if name == NO_TARGET else _lookup.known_target(name).device
        if device is None:
            given = request.target is not None
            raise UsageError(
                f"{name} leaves the GPU open"
                if given
                else f"{request.artefact.name} was made for {name}, which leaves the GPU open",
                where="--target",
                fix=f"name boards or GPUs, as --target {_EXAMPLE}; on this machine measure: "
                f"{command('bench', request.artefact)}",
            )
        found.append(device)
    return list({device.name: device for device in found}.values())  # of a release each


def _hardware(device: Device, mode: str | None, precision: str) -> tuple[list[Hardware], list[str]]:
    """Return a device in the mode asked for, or in every mode that is known; and what is not."""
    if mode is not None:
        return [hardware_of(device, mode, precision)], []
    found, left = modes_of(device, precision)
    return found, [
        f"{device.name}{f' in {one.mode}' if one.mode else ''}: {one.reason}" for one in left
    ]


def _rows(paths: Sequence[Path]) -> Iterator[Row]:
    for path in paths:
        files = sorted(path.rglob("*.json")) if path.is_dir() else [path]
        for file in files:
            try:
                yield from rows_of(read_measurements(file))
            except InputError:
                if not path.is_dir():
                    raise


def _calibration(hardware: Hardware, rows: Sequence[Row]) -> Calibration:
    own = [row for row in rows if _is_of(row, hardware)]
    return calibrate(own) if own else start_of(is_board=hardware.is_board)


def _is_of(row: Row, hardware: Hardware) -> bool:
    return (row.hardware.device, row.hardware.mode) == (hardware.device, hardware.mode)


def _estimate(
    network: Network, hardware: Hardware, calibration: Calibration, precision: str, batch: int
) -> Estimate:
    plain, merged = (
        predict(one, hardware, calibration, precision=precision, batch=batch)
        for one in (network.plain(), network)
    )
    return Estimate(
        hardware=hardware,
        precision=precision,
        batch=batch,
        plain=plain,
        merged=merged if network.merges else None,
        calibration=calibration,
    )


def _refuse_unused(
    request: EstimateRequest, rows: Sequence[Row], estimates: Sequence[Estimate]
) -> None:
    """Refuse measurements that say nothing of any device that is asked for.

    Raises:
        UsageError: There are some, and none does.
    """
    if request.measured is None or any(one.calibration.measured for one in estimates):
        return
    devices = ", ".join(dict.fromkeys(one.hardware.name for one in estimates))
    others = ", ".join(dict.fromkeys(row.hardware.name for row in rows))
    raise UsageError(
        f"no valid measurement there is of {devices}, but of {others}"
        if rows
        else f"no measurement there says on which device, in which power mode and of which network "
        f"it is valid; wanted {devices}",
        where="--measured",
        fix="measure there with `fpet-export bench … -o FILE`, or leave --measured out",
    )


def _next(artefact: Path, estimates: Sequence[Estimate]) -> Iterator[str]:
    first = estimates[0].hardware
    if first.is_board:
        yield command("bundle", artefact, "--target", first.device)


def _document(prediction: Prediction) -> dict[str, Any]:
    parts = [{**dataclasses.asdict(part), "bound": part.bound} for part in prediction.parts]
    return {
        "low_ms": prediction.low_ms,
        "high_ms": prediction.high_ms,
        "bound": prediction.bound,
        "parts": parts,
    }
