"""Mergers beside each other at equal multiply-adds: accuracy, CPU latency, kernels of TensorRT-RTX.

The network is one that was never trained to merge: a pretrained DINOv2 with a linear head that is
fitted on the class tokens of the training half of the stamps (`benchmarks.experiments.pretrained`).
ToMe takes the r in every block whose multiply-adds come closest to those of FPET after one block.
DiffRate has no published schedule for this network: those of DeiT-B are stretched to its tokens.

`python -m benchmarks.experiments.mergers --pretrained out/pretrained -o FILE.json`
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.comparison import bench
from benchmarks.contenders import Opened
from benchmarks.latency import Schedule
from benchmarks.measurement import describe_artefact
from engines import registry, storage
from engines.contract import BuildOptions, OpenOptions
from engines.engine import build, open_engine
from engines.errors import FpetError
from engines.imaging.images import ImageSet
from engines.manifest import read_manifest

SCHEMA = 1
FPET_BLOCKS = (2, 3, 4, 5, 6, 7, 8)
MEASURED_BLOCKS = (4, 6)
"""FPET after these blocks and ToMe at as many multiply-adds are timed, their kernels counted."""

DEIT_B = {
    "8.7": "197-197 192-178 172-162 156-141 131-115 107-96 90-78 72-60 56-47 33-21 17-13 3-3",
    "11.5": (
        "197-197 197-197 197-192 188-178 170-158 154-145 139-127 123-111 107-94 72-50 43-35 3-3"
    ),
}
"""Tokens after pruning and after merging in each block, by GMAC (Chen et al. 2023, its code)."""

_DEIT_TOKENS = 197
_PROBE_STRENGTH = 0.1


@dataclasses.dataclass(kw_only=True)
class Row:
    """One way to merge.

    Attributes:
        merge: As `--merge` takes it.
        beside: The way of FPET whose multiply-adds it comes closest to; itself for FPET.
        macs: Multiply-adds of one image.
        of_plain: Their share of those without merging.
        tokens: Tokens that leave the last block.
        accuracy: Share of the test half whose label it predicts.
        agreement: Share with the same class as without merging.
        latency_ms: Median at batch 1 in ONNX Runtime on the CPU, where it was measured.
        ratio: Paired ratio to no merging in the same rounds, with its 95 % interval.
        kernels: Kernels of a TensorRT-RTX plan, where it was built.
    """

    merge: str
    beside: str
    macs: int
    of_plain: float
    tokens: int
    accuracy: float
    agreement: float
    latency_ms: float | None = None
    ratio: tuple[float, float, float] | None = None
    kernels: int | None = None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.experiments.mergers",
        description=(__doc__ or "").partition("\n")[0],
    )
    parser.add_argument("--pretrained", type=Path, required=True, help="folder of `pretrained`")
    parser.add_argument("-o", "--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--work", type=Path, default=Path("out/mergers"), help="folder for graphs")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--max-s", type=float, default=240.0, help="most seconds of measuring")
    parser.add_argument("--no-latency", action="store_true", help="accuracy and kernels alone")
    parser.add_argument("--force", action="store_true", help="replace the JSON file")
    options = parser.parse_args(arguments)
    try:
        storage.refuse_overwrite(options.output, force=options.force)
        document = compare(options)
    except FpetError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    storage.write_text(options.output, json.dumps(document, indent=1) + "\n")
    sys.stdout.write(f"{options.output}\n")
    return 0


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Return the rows of all ways to merge, and what they were measured on."""
    halves = {name: _read_half(options.pretrained, name) for name in ("train", "test")}
    options.work.mkdir(parents=True, exist_ok=True)
    backbone = options.pretrained / "backbone"
    probe = _fit_probe(backbone, halves["train"], options.work)
    run = registry.import_or_explain("fpet_export").load(
        probe, backbone=backbone, normalisation="imagenet", method="linear-probe"
    )
    rows = _judged(run, halves["test"])
    for row in rows:
        sys.stdout.write(
            f"{row.merge[:24]:24} {row.of_plain:.3f} of the multiply-adds, "
            f"{row.accuracy:.1%}, same class {row.agreement:.1%}\n"
        )
    document: dict[str, Any] = {"schema": SCHEMA, "kind": "mergers"}
    document["images"] = len(halves["test"][1])
    measured = [row for row in rows if _is_measured(row)]
    for row, graph in _export(run, measured, options.work, target="rtx"):
        row.kernels = _kernels(graph)
    if not options.no_latency:
        document["latency"] = _time(_export(run, measured, options.work, target="cpu"), options)
    return document | {"rows": [dataclasses.asdict(row) for row in rows]}


def _read_half(pretrained: Path, half: str) -> tuple[Any, Any]:
    """Return (I, height, width, 3) pixels and (I,) labels, kinds in the order of their names."""
    image = registry.import_or_explain("PIL.Image")
    kinds = sorted(path.name for path in (pretrained / "pictures" / half).iterdir())
    pixels, labels = [], []
    for index, kind in enumerate(kinds):
        for path in sorted((pretrained / "pictures" / half / kind).iterdir()):
            with image.open(path) as picture:
                pixels.append(np.asarray(picture.convert("RGB")))
            labels.append(index)
    return np.stack(pixels), np.array(labels)


def _fit_probe(backbone: Path, train: tuple[Any, Any], folder: Path) -> Path:
    """Write a head that is fitted on what the backbone makes of the training half."""
    api = registry.import_or_explain("fpet_export")
    torch = registry.import_or_explain("torch")
    regression = registry.import_or_explain("sklearn.linear_model").LogisticRegression
    network = api.load(backbone, normalisation="imagenet", head="features")
    features = network.outputs(train[0], dtype=torch.float32).logits
    probe = regression(C=_PROBE_STRENGTH, max_iter=5000).fit(features, train[1])
    tensors = {"head.weight": probe.coef_, "head.bias": probe.intercept_}
    path = folder / "probe.safetensors"
    registry.import_or_explain("safetensors.numpy").save_file(
        {name: np.ascontiguousarray(value, np.float32) for name, value in tensors.items()}, path
    )
    return path


def _judged(run: Any, test: tuple[Any, Any]) -> list[Row]:
    """Return the accuracy of every way to merge, all in one pass."""
    spec, plain = run.model.spec, run.macs_without_merging()

    def cost(merge: str) -> int:
        return sum(dataclasses.replace(run.checkpoint, merge=merge).macs(spec))

    ways = {"none": "none"}
    for block in FPET_BLOCKS:
        fpet = f"fpet@{block}"
        tome = min(
            (f"tome:r={r}" for r in range(1, spec.patches // 2)),
            key=lambda merge: abs(cost(merge) - cost(fpet)),
        )
        ways |= {fpet: fpet, tome: fpet}
    for numbers in DEIT_B.values():
        ways[_stretched(numbers, spec.tokens)] = ""
    choice = registry.import_or_explain("fpet_export.steps.merge_choice")
    silent = registry.import_or_explain("fpet_export.reporter").SILENT
    images = ImageSet(pixels=test[0], description="the test half")
    answers = choice.answers(run, list(ways), images, silent)
    chosen = {merge: logits.argmax(axis=1) for merge, logits in answers.items()}
    return [
        Row(
            merge=merge,
            beside=beside,
            macs=cost(merge),
            of_plain=cost(merge) / plain,
            tokens=dataclasses.replace(run.checkpoint, merge=merge).merge_plan(spec).tokens[-1],
            accuracy=float((chosen[merge] == test[1]).mean()),
            agreement=float((chosen[merge] == chosen["none"]).mean()),
        )
        for merge, beside in ways.items()
    ]


def _stretched(numbers: str, tokens: int) -> str:
    """Return a schedule of DiffRate for a network with another number of tokens."""
    pairs = [pair.split("-") for pair in numbers.split()]
    longer = [[max(2, round(int(n) * tokens / _DEIT_TOKENS)) for n in pair] for pair in pairs]
    return "diffrate:" + ",".join(f"{pruned}-{merged}" for pruned, merged in longer)


def _is_measured(row: Row) -> bool:
    return row.beside in ("none", "", *(f"fpet@{block}" for block in MEASURED_BLOCKS))


def _export(run: Any, rows: Sequence[Row], folder: Path, *, target: str) -> list[tuple[Row, Path]]:
    """Write the graph of each way to merge in the form of a target."""
    found = []
    for index, row in enumerate(rows):
        frozen = run.merged(row.merge).fold().freeze(target=target)
        path = folder / f"{target}-{index}-{row.merge.partition(':')[0].replace('@', '-')}.onnx"
        found.append((row, frozen.to_onnx(path, force=True)))
    return found


def _time(graphs: Sequence[tuple[Row, Path]], options: argparse.Namespace) -> dict[str, Any]:
    """Time all graphs in the same rounds; write median and ratio into their rows."""
    from benchmarks.measurement_file import to_document

    with contextlib.ExitStack() as stack:
        opened = []
        for row, graph in graphs:
            path = build(graph, target="cpu", options=BuildOptions(force=True))
            settings = OpenOptions(threads=options.threads)
            engine = stack.enter_context(open_engine(path, options=settings))
            artefact = describe_artefact(read_manifest(path, verify=False))
            opened.append(
                Opened(name=row.merge, engine=engine, artefact=artefact, macs=artefact.macs)
            )
        measured = bench(
            opened,
            against="none",
            batch=1,
            threads=options.threads,
            schedule=Schedule(min_rounds=40, max_s=options.max_s),
            strict=False,
            command=["python", "-m", "benchmarks.experiments.mergers"],
        )
    for row, _ in graphs:
        result = measured.result(row.merge)
        row.latency_ms = result.latency.p50_ns / 1e6
        if result.against is not None:
            row.ratio = (result.against.ratio, result.against.low, result.against.high)
    return to_document(measured)


def _kernels(graph: Path) -> int:
    """Return the kernels of a TensorRT-RTX plan of a graph."""
    from engines.fusion.report import fusion_path, read_fusion

    plan = build(graph, target="rtx", options=BuildOptions(force=True))
    return len(read_fusion(fusion_path(plan)).kernels)


if __name__ == "__main__":
    sys.exit(main())
