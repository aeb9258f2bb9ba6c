"""The README's CPU numbers: a frozen ViT-B/16 against every plain way that is installed.

The frozen graph runs in ONNX Runtime ("frozen") and in OpenVINO ("frozen_openvino"), where that
is installed, each in float32 and with INT8 linears; "frozen_no_merge" and "frozen_int8_no_merge"
show what is gained without merging tokens.

`python -m benchmarks.experiments.cpu_latency -o benchmarks/results/NAME.json`. The weights are
random, which decides nothing about speed. The plain ways run timm's model, exported as its users
export it.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import peers as peer_folder
from benchmarks.comparison import bench, fastest, rebase
from benchmarks.conditions.failures import as_engine_error
from benchmarks.contenders import Opened
from benchmarks.experiments.natural_images import natural_set
from benchmarks.experiments.subjects import IMAGE, MERGE_BLOCK, freeze
from benchmarks.gemm_peak import GemmPeak, measure_gemm_peak
from benchmarks.latency import Schedule
from benchmarks.measurement import Measurement, describe_artefact
from benchmarks.measurement_file import to_document, to_text
from benchmarks.peers import PeerSource
from benchmarks.report.table import format_table
from engines import registry, storage
from engines.contract import OpenOptions
from engines.engine import build, load_target, open_engine
from engines.errors import EngineError, FpetError, MeasurementError, MissingDependencyError
from engines.manifest import read_manifest
from engines.precisions import FP32, INT8

SCHEMA = 1
FLOAT = ("frozen", "frozen_openvino")
"""The frozen graph in each runtime for a CPU; all compute the same logits."""

OURS = (*FLOAT, "frozen_int8", "frozen_int8_openvino")

_CONTENDERS: dict[str, tuple[str, int | None, str]] = {
    "frozen": ("cpu", MERGE_BLOCK, FP32),
    "frozen_openvino": ("openvino", MERGE_BLOCK, FP32),
    "frozen_int8": ("cpu", MERGE_BLOCK, INT8),
    "frozen_int8_openvino": ("openvino", MERGE_BLOCK, INT8),
    "frozen_no_merge": ("cpu", None, FP32),
    "frozen_int8_no_merge": ("cpu", None, INT8),
}
"""Name to target, merge block and precision."""

_UNMERGED = {"frozen": "frozen_no_merge", "frozen_int8": "frozen_int8_no_merge"}
"""Each merged graph, and the same without merging."""

_CALIBRATION_IMAGES = 16
"""The ranges decide nothing about speed."""

_PLAIN_ORT = "ort_plain"
_MODEL = "vit_base_patch16_224"
_WIDTH, _DEPTH, _PATCHES, _CLASSES = 768, 12, 196, 1000
_OPSET = 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summary:
    """What the README quotes of one contender; ratios below 1 mean that frozen is faster.

    Attributes:
        name: One of ours.
        batch: Images of one run.
        fastest_plain: The fastest way to run the plain model in this very measurement.
        ratio_to_fastest_plain: Median of paired ratios.
        interval_to_fastest_plain: Its 95 % interval.
        ratio_to_plain_ort: Likewise against the plain graph in ONNX Runtime; None without it.
        interval_to_plain_ort: Its 95 % interval.
        peak_share: How near it comes to the measured GEMM peak.
        macs_ratio: Multiply-adds, frozen over plain: what the arithmetic alone would give.
    """

    name: str
    batch: int
    fastest_plain: str
    ratio_to_fastest_plain: float
    interval_to_fastest_plain: tuple[float, float]
    ratio_to_plain_ort: float | None
    interval_to_plain_ort: tuple[float, float] | None
    peak_share: float | None
    macs_ratio: float | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Merging:
    """What merging tokens alone brings: the same export with and without it.

    Attributes:
        name: The graph that merges.
        against: The same without merging.
        batch: Images of one run.
        ratio: Median of paired ratios; below 1 merging is faster.
        interval: Its 95 % interval.
    """

    name: str
    against: str
    batch: int
    ratio: float
    interval: tuple[float, float]


def plain_macs() -> int:
    """Return the multiply-adds of a plain ViT-B/16 for one image, all tokens in every block."""
    tokens = _PATCHES + 1
    linears = 12 * _WIDTH * _WIDTH * tokens
    attention = 2 * _WIDTH * tokens * tokens
    embedding = _PATCHES * _WIDTH * (3 * 16 * 16)
    return _DEPTH * (linears + attention) + embedding + _WIDTH * _CLASSES


def summarise_batch(
    measurement: Measurement, *, plain: Sequence[str], ours: Sequence[str] = OURS
) -> list[Summary]:
    """Return what the README quotes, one entry for each of ours; none when no plain way took part.

    Args:
        measurement: All in the same rounds.
        plain: Names of the plain ways.
        ours: Names of the frozen contenders to summarise; those that are absent are left out.
    """
    names = [result.name for result in measurement.contenders]
    best = fastest(measurement, plain)
    if best is None:
        return []
    to_best = rebase(measurement, best)
    to_ort = rebase(measurement, _PLAIN_ORT) if _PLAIN_ORT in names else None
    return [_summarise(name, to_best, to_ort) for name in ours if name in names]


def merging(measurement: Measurement) -> list[Merging]:
    """Return what merging brings, one entry for each pair that took part."""
    names = {result.name for result in measurement.contenders}
    found = []
    for name, without in _UNMERGED.items():
        if not {name, without} <= names:
            continue
        against = rebase(measurement, without).result(name).against
        assert against is not None
        found.append(
            Merging(
                name=name,
                against=without,
                batch=measurement.batch,
                ratio=against.ratio,
                interval=(against.low, against.high),
            )
        )
    return found


def _summarise(name: str, to_best: Measurement, to_ort: Measurement | None) -> Summary:
    result = to_best.result(name)
    against = result.against
    assert against is not None
    ort = to_ort.result(name).against if to_ort else None
    macs = result.artefact.macs if result.artefact else None
    return Summary(
        name=name,
        batch=to_best.batch,
        fastest_plain=to_best.baseline,
        ratio_to_fastest_plain=against.ratio,
        interval_to_fastest_plain=(against.low, against.high),
        ratio_to_plain_ort=ort.ratio if ort else None,
        interval_to_plain_ort=(ort.low, ort.high) if ort else None,
        peak_share=result.peak_share,
        macs_ratio=macs / plain_macs() if macs else None,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and return the exit code.

    What was measured is written after every batch size, so that a later failure loses nothing.
    """
    options = _parse(arguments)
    invalid: list[str] = []
    try:
        storage.refuse_overwrite(options.output, force=options.force)
        peak = measure_gemm_peak(threads=options.threads)
        sys.stdout.write(peak.format() + "\n\n")
        measurements: list[Measurement] = []
        summaries: list[Summary] = []
        merged: list[Merging] = []
        names = registry.available(peer_folder)
        for batch in options.batches:
            with tempfile.TemporaryDirectory() as folder:
                measured = _measure(batch, names, peak, Path(folder), options)
            measurements.append(measured)
            sys.stdout.write(format_table(measured) + "\n\n")
            if measured.valid:
                found = summarise_batch(measured, plain=names)
                summaries += found
                gains = merging(measured)
                merged += gains
                sys.stdout.writelines(_sentence(summary) + "\n" for summary in found)
                sys.stdout.writelines(_merging_sentence(gain) + "\n" for gain in gains)
                sys.stdout.write("\n")
            else:
                invalid.append(f"batch {batch}")
            _write(options.output, peak, measurements, summaries, merged)
            sys.stdout.flush()
        sys.stdout.write(f"{options.output}\n")
        if invalid and not options.allow_busy:
            raise MeasurementError(
                f"{' and '.join(invalid)} cannot be quoted; the findings are in the table",
                where=str(options.output),
                fix="end other work and measure again, or add --allow-busy",
            )
    except FpetError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.experiments.cpu_latency",
        description=(__doc__ or "").partition("\n")[0],
    )
    parser.add_argument("-o", "--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of every contender")
    parser.add_argument("--batches", type=_numbers, default=[1, 8], help="sizes, such as 1,8")
    parser.add_argument("--rounds", type=int, default=40, help="least rounds a batch size")
    parser.add_argument("--max-s", type=float, default=400.0, help="most seconds a batch size")
    parser.add_argument(
        "--allow-busy",
        action="store_true",
        help="do not fail where a measurement is not valid; it has no summary all the same",
    )
    parser.add_argument("--force", action="store_true", help="replace the JSON file")
    return parser.parse_args(arguments)


def _numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]


def _measure(
    batch: int, names: Sequence[str], peak: GemmPeak, folder: Path, options: argparse.Namespace
) -> Measurement:
    source = _plain_source(batch, folder)
    schedule = Schedule(min_rounds=options.rounds, max_s=options.max_s)
    with contextlib.ExitStack() as stack:
        ours: list[Opened] = []
        for name in _CONTENDERS:
            try:
                ours.append(_open_frozen(name, batch, folder, options, stack))
            except MissingDependencyError as error:
                sys.stdout.write(f"{name} takes no part: {error.what} ({error.fix})\n\n")
        present = [opened.name for opened in ours]
        return bench(
            ours,
            against=_PLAIN_ORT,
            peers=names,
            peer_source=source,
            batch=batch,
            threads=options.threads,
            agree=[[name for name in FLOAT if name in present]],
            schedule=schedule,
            gemm_peak_macs_per_s=peak.macs_per_s,
            strict=False,
            command=["python", "-m", "benchmarks.experiments.cpu_latency"],
        )


def _open_frozen(
    name: str,
    batch: int,
    folder: Path,
    options: argparse.Namespace,
    stack: contextlib.ExitStack,
) -> Opened:
    """Build and open one of ours, as users do."""
    path = build_frozen(name, batch, folder)
    engine = stack.enter_context(open_engine(path, options=OpenOptions(threads=options.threads)))
    # `open_engine` has just compared the bytes with the manifest.
    artefact = describe_artefact(read_manifest(path, verify=False))
    return Opened(name=name, engine=engine, artefact=artefact, macs=artefact.macs)


def build_frozen(name: str, batch: int, folder: Path) -> Path:
    """Freeze, export, quantize and build one of ours in a folder; return the engine's file."""
    target, merge_block, precision = _CONTENDERS[name]
    registry.import_or_explain(f"engines.backends.{load_target(target).backend}")
    graph = folder / f"{name}.b{batch}.onnx"
    freeze(merge_block=merge_block, batch=batch, target=target).to_onnx(graph)
    if precision != FP32:
        graph = _quantized(graph, precision, folder)
    path = build(graph, target=target)
    graph.unlink()
    return path


def _quantized(graph: Path, precision: str, folder: Path) -> Path:
    """Quantize a graph on natural images; return the typed one and remove the other."""
    images = folder / "calibration.npz"
    np.savez(images, images=natural_set(IMAGE[1:], _CALIBRATION_IMAGES).pixels)
    typed = graph.with_name(f"{graph.stem}.{precision}.onnx")
    words = ["quantize", str(graph), "--precision", precision, "--calibration", str(images)]
    with contextlib.redirect_stdout(io.StringIO()):
        code = registry.import_or_explain("fpet_export.cli.dispatch").main(
            [*words, "--limit", "1", "-o", str(typed), "--quiet"]
        )
    if code:
        raise EngineError(
            f"`fpet-export quantize` ended with exit code {code}",
            where=graph.name,
            fix="run the command by itself",
        )
    graph.unlink()
    return typed


def _plain_source(batch: int, folder: Path) -> PeerSource:
    """Return timm's model and its plain export."""
    timm = registry.import_or_explain("timm")
    torch = registry.import_or_explain("torch")
    torch.manual_seed(0)
    module: Any = timm.create_model(_MODEL).eval()
    path = folder / f"plain.b{batch}.onnx"
    with as_engine_error("plain export"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about itself
        torch.onnx.export(
            module,
            (torch.zeros(batch, *IMAGE),),
            path,
            dynamo=True,
            verbose=False,
            opset_version=_OPSET,
            external_data=False,
            input_names=["images"],
            output_names=["logits"],
        )
    return PeerSource(onnx=path, module=lambda: module, image=IMAGE, macs=plain_macs())


def _sentence(summary: Summary) -> str:
    low, high = summary.interval_to_fastest_plain
    text = (
        f"batch {summary.batch}: {summary.name} takes {summary.ratio_to_fastest_plain:.3f}"
        f" [{low:.3f}, {high:.3f}] of the fastest plain way ({summary.fastest_plain})"
    )
    if summary.ratio_to_plain_ort is not None:
        text += f", {summary.ratio_to_plain_ort:.3f} of plain ONNX Runtime"
    if summary.peak_share is not None:
        text += f", at {summary.peak_share:.0%} of the GEMM peak"
    return text


def _merging_sentence(gain: Merging) -> str:
    low, high = gain.interval
    return (
        f"batch {gain.batch}: merging takes {gain.name} to {gain.ratio:.3f} [{low:.3f}, {high:.3f}]"
        f" of {gain.against}"
    )


def _write(
    path: Path,
    peak: GemmPeak,
    measurements: Sequence[Measurement],
    summaries: Sequence[Summary],
    merged: Sequence[Merging],
) -> None:
    document = {
        "schema": SCHEMA,
        "kind": "cpu_latency",
        "summary": [dataclasses.asdict(summary) for summary in summaries],
        "merging": [dataclasses.asdict(gain) for gain in merged],
        "gemm_peak_macs_per_s": peak.macs_per_s,
        "gemm_peak": dataclasses.asdict(peak),
        "measurements": [to_document(measurement) for measurement in measurements],
    }
    storage.write_text(path, to_text(document))


if __name__ == "__main__":
    sys.exit(main())
