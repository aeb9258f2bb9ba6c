"""How far off predictions are: published and own latencies beside what the other devices predict.

No row is judged by constants that saw it: those of a device come from the rows of all other
devices, and so does the width of its range. Rows that are no part of any fit say so.

  python -m benchmarks.experiments.prediction                  # print the tables
  python -m benchmarks.experiments.prediction -o FILE --force  # and write them as JSON
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.network import Network
from benchmarks.prediction.constants import NOMINAL, Calibration, start_of
from benchmarks.prediction.fit import Row, errors, fit, width_of
from benchmarks.prediction.hardware import Hardware, hardware_of, modes_of
from benchmarks.prediction.roofline import predict
from engines import precisions, storage
from engines.targets import Device, Gpu, Peaks, _lookup

PUBLISHED = Path(__file__).resolve().parents[1] / "results/published_latency.json"
_MODES = {"jetson-agx-orin-64gb": "MAXN"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """A published latency: the row, and what is said of it."""

    row: Row
    device: str
    software: str
    network: str
    merged: bool
    fitted: bool
    source: str
    note: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judged:
    """A latency beside what the other devices predict, milliseconds."""

    device: str
    software: str
    network: str
    precision: str
    batch: int
    low_ms: float
    high_ms: float
    measured_ms: float
    inside: bool
    off: float
    fitted: bool


def read_cases(path: Path = PUBLISHED) -> list[Case]:
    """Return the published latencies."""
    document = json.loads(path.read_text("utf-8"))
    return [_case(one, document["hardware"]) for one in document["rows"]]


def judge(cases: Sequence[Case]) -> list[Judged]:
    """Return every latency beside what the constants of the other devices predict."""
    found = []
    for device in dict.fromkeys(case.device for case in cases):
        others = [case for case in cases if case.fitted and case.device != device]
        calibration = calibrated(others)
        for case in (one for one in cases if one.device == device):
            row = case.row
            predicted = predict(
                row.network, row.hardware, calibration, precision=row.precision, batch=row.batch
            )
            found.append(
                Judged(
                    device=device,
                    software=case.software,
                    network=f"{case.network}, merged" if case.merged else case.network,
                    precision=row.precision,
                    batch=row.batch,
                    low_ms=predicted.low_ms,
                    high_ms=predicted.high_ms,
                    measured_ms=row.measured_ms,
                    inside=predicted.low_ms <= row.measured_ms <= predicted.high_ms,
                    off=predicted.middle_ms / row.measured_ms,
                    fitted=case.fitted,
                )
            )
    return found


def calibrated(cases: Sequence[Case]) -> Calibration:
    """Return constants fitted to the rows of some devices, and how far off they may be elsewhere.

    The width comes from leaving out one of these devices after the other.
    """
    devices = list(dict.fromkeys(case.device for case in cases))
    apart = []
    for device in devices:
        without = [case.row for case in cases if case.device != device]
        left = [case.row for case in cases if case.device == device]
        apart += errors(left, fit(without, NOMINAL)) if without else []
    return Calibration(
        constants=fit([case.row for case in cases], NOMINAL),
        factor=width_of(apart),
        source=f"latencies of {', '.join(devices)}",
    )


def _case(document: Mapping[str, Any], extra: Mapping[str, Any]) -> Case:
    device, precision = document["device"], document["precision"]
    row = Row(
        network=_network(document["network"], document["merged"], document["last_block"]),
        hardware=_hardware(device, extra.get(device), precision),
        precision=precision,
        batch=document["batch"],
        measured_ms=document["ms"],
        group=f"{device}, {document['software']}",
    )
    kept = ("device", "software", "network", "merged", "fitted", "source", "note")
    return Case(row=row, **{name: document[name] for name in kept})


def _network(name: str, merged: bool, last_block: str) -> Network:
    """Return a ViT-B by its name, such as "ViT-B/16 at 384 pixels"."""
    shape, _, pixels = name.partition(" at ")
    assert shape.startswith("ViT-B/"), name
    patch = int(shape.removeprefix("ViT-B/"))
    side = int(pixels.removesuffix(" pixels") or 224) // patch
    tokens = side**2 + 1
    after = tokens // 2 + 1  # of the patches, half are left, beside the class token
    left = after if merged else tokens
    return Network(
        width=768, depth=12, heads=12, hidden=3072, patch=(patch, patch), grid=(side, side),
        classes=1000, tokens_in=tokens, tokens=(tokens,) * 6 + (left,) * 6,
        merged_blocks=(6,) if merged else (), merge="fpet@6" if merged else "none",
        last_tokens=1 if last_block == "class-token" else left,
    )  # fmt: skip


def _hardware(name: str, facts: Mapping[str, Any] | None, precision: str) -> Hardware:
    if facts is None:
        device = _lookup.entry(name)
        assert isinstance(device, Device), name
        return hardware_of(device, _MODES.get(name, ""), precision)
    peaks = Peaks(**{key: value for key, value in facts.items() if key != "source"})
    gpu = Gpu(compute_capability="", precisions=(precision,), memory_gb=1, peaks=(peaks,))
    device = Device(name=name, summary="", gpu=gpu, releases=(), default="", sources=())
    return hardware_of(device, "", precision)


def markdown(judged: Sequence[Judged]) -> str:
    """Return the table of the documentation."""
    heads = ("device, software", "network", "precision", "batch", "predicted, ms", "measured",
             "middle / measured", "")  # fmt: skip
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for one in judged:
        remark = "" if one.inside else "outside"
        if not one.fitted:
            remark = f"{remark}, in no fit".removeprefix(", ")
        cells = (
            f"{one.device}, {one.software}",
            one.network,
            one.precision.upper(),
            str(one.batch),
            f"{one.low_ms:.2f} to {one.high_ms:.2f}",
            f"{one.measured_ms:.2f}",
            f"{one.off:.2f}",
            remark,
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def ratios_markdown(cases: Sequence[Case]) -> str:
    """Return the table of merged over plain, where both were measured by the same software."""
    heads = ("device, software", "batch", "predicted merged / plain", "measured")
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    plain = {(case.device, case.software, case.row.batch): case.row
             for case in cases if not case.merged}  # fmt: skip
    for case in (one for one in cases if one.merged):
        row, other = case.row, plain[case.device, case.software, case.row.batch]
        others = [one for one in cases if one.fitted and one.device != case.device]
        constants = calibrated(others).constants
        predicted = row.ideal().total_ms(constants) / other.ideal().total_ms(constants)
        measured = row.measured_ms / other.measured_ms
        name = f"{case.device}, {case.software}"
        lines.append(f"| {name} | {row.batch} | {predicted:.2f} | {measured:.2f} |")
    return "\n".join(lines)


def boards_markdown() -> str:
    """Return the table of what is predicted for every board in every mode that is known."""
    plain, merged = (_network("ViT-B/16", one, "all-tokens") for one in (False, True))
    heads = ("board, mode", "batch 1: plain", "merged", "batch 8: plain", "merged", "bound by")
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for name in _lookup.target_names():
        device = _lookup.entry(name)
        if not isinstance(device, Device) or device.board is None:
            continue
        for hardware in modes_of(device, precisions.FP16)[0]:
            cells, bounds = [], []
            for batch in (1, 8):
                for network in (plain, merged):
                    found = predict(
                        network, hardware, start_of(is_board=True), precision="fp16", batch=batch
                    )
                    cells.append(f"{found.low_ms:.1f} to {found.high_ms:.1f}")
                bounds.append(found.bound)
            bound = " / ".join(dict.fromkeys(bounds))
            lines.append(f"| {hardware.name} | {' | '.join(cells)} | {bound} |")
    return "\n".join(lines)


def main() -> None:
    """Print the table, and write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--out", type=Path)
    parser.add_argument("--force", action="store_true")
    options = parser.parse_args()
    cases = read_cases()
    judged = judge(cases)
    start = calibrated([case for case in cases if case.fitted])
    if options.out is not None:
        storage.refuse_overwrite(options.out, force=options.force)
        document = {
            "schema": 1,
            "kind": "prediction",
            "start": dataclasses.asdict(start),
            "rows": [dataclasses.asdict(one) for one in judged],
        }
        storage.write_text(options.out, json.dumps(document, indent=1) + "\n")
    tables = (markdown(judged), ratios_markdown(cases), boards_markdown())
    sys.stdout.write("\n\n".join((*tables, str(start))) + "\n")


if __name__ == "__main__":
    main()
