"""How exact an export is, beside what plain `torch.onnx.export` makes of the same model.

`python -m benchmarks.experiments.fidelity -o benchmarks/results/fidelity.json`: a ViT-B/16 with
random weights x tuning method x bits of the stored adapter x token merge. Every run is written as
the authors' files and read back, so that reading them takes part. The adapted model in float64 says
what is right; the frozen graph and the naive one run in ONNX Runtime in float32 on natural images.

Random weights say nothing about accuracy, and how often two scores of the match nearly tie may
differ for trained ones: `smallest_margin` is recorded.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.conditions.environment import read_environment
from benchmarks.conditions.failures import as_engine_error
from benchmarks.experiments.natural_images import natural_set
from benchmarks.measurement_file import to_text
from engines import registry, storage
from engines.contract import OpenOptions
from engines.errors import FpetError, ParityError
from engines.imaging.images import ImageSet, to_input
from engines.parity.model_outputs import ModelOutputs
from engines.parity.rows import StageParity

SCHEMA = 2
METHODS = ("lora", "adaptformer")
BITS = (1, 2, 4, 8, 32)
MERGE_BLOCKS = (6, None)
LIMIT = 1e-4
"""Largest logit difference of the frozen graph, relative to the largest logit."""

_NAME = "drawn"
_CLASSES = 100
_FULL_BITS = 32
_SCALE = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
    """One run to be measured.

    Attributes:
        method: Tuning method.
        bit: Bits of the stored adapter.
        merge_block: Block after whose attention tokens merge; None for all tokens.
    """

    method: str
    bit: int
    merge_block: int | None

    @property
    def dim(self) -> int:
        """Inner width: 8 at 32 bit, 32 below, as in the example runs."""
        return 8 if self.bit == _FULL_BITS else 32


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """How far one graph is from the float64 model, over all images.

    Attributes:
        largest_logit_difference: In absolute value.
        relative: The same over the largest |logit| of the reference.
        agreement: Share of images with the same class.
        tokens_expected: Patches and prefix tokens of one image.
        tokens_kept: What the sizes sum to, one number an image; None where the graph does not
            show them or nothing merges.
        unexplained_flips: Matches that differ although float64 was sure; None as above.
        explained_flips: Matches that differ where two scores nearly tie.
        relative_without_ties: `relative` over the images without an explained flip.
    """

    largest_logit_difference: float
    relative: float
    agreement: float
    tokens_expected: int
    tokens_kept: tuple[int, ...] | None = None
    unexplained_flips: int | None = None
    explained_flips: int | None = None
    relative_without_ties: float | None = None

    @property
    def tokens_lost(self) -> int | None:
        """Tokens lost over all images."""
        if self.tokens_kept is None:
            return None
        return sum(self.tokens_expected - kept for kept in self.tokens_kept)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One cell, measured.

    Attributes:
        cell: What it is.
        frozen: This toolkit's graph.
        naive: The graph that plain `torch.onnx.export` makes of the adapted model.
        smallest_margin: Smallest difference between the two best scores of a match in float64.
        seconds: What it took.
    """

    cell: Cell
    frozen: Outcome
    naive: Outcome
    smallest_margin: float | None
    seconds: float


def cells() -> list[Cell]:
    """Return every run, those that merge first."""
    return [
        Cell(method=method, bit=bit, merge_block=block)
        for block in MERGE_BLOCKS
        for method in METHODS
        for bit in BITS
    ]


def write_run(
    folder: Path, cell: Cell, architecture: str, *, seed: int = 0, classes: int = _CLASSES
) -> Path:
    """Draw adapters, refinement and head, and write them as the authors' code does.

    Args:
        folder: Where `drawn.pth`, `drawn.bin`, the YAML and `drawn/params.sh` go.
        cell: Method, bits, merge block.
        architecture: timm's name of the backbone.
        seed: Seed of the drawing.
        classes: Rows of the head.

    Returns:
        What `fpet_export.load` takes: the folder and the run's name.
    """
    torch = registry.import_or_explain("torch")
    qlinear = registry.import_or_explain("fpet_export.model.qlinear")
    merger = registry.import_or_explain("fpet_export.model.mergers.fpet")
    method = registry.import_or_explain("fpet_export.model.methods").load(cell.method)
    spec = registry.import_or_explain("fpet_export.model.backbones.random_weights").spec_of_name(
        architecture, where="--arch"
    )
    generator = torch.Generator().manual_seed(seed)

    def draw(shape: tuple[int, ...]) -> Any:
        return 0.3 * torch.randn(shape, generator=generator) / shape[1] ** 0.5

    tensors = {
        "head.weight": draw((classes, spec.width)),
        "head.bias": torch.zeros(classes),
    }
    refinement = (
        (merger.REFINEMENT_WIDTH, spec.head_width),
        (spec.head_width, merger.REFINEMENT_WIDTH),
    )
    stream = b""
    for block in range(spec.depth):
        for layer in method.layers(spec.width, cell.dim):
            weight = draw(layer.shape)
            if cell.bit == _FULL_BITS:
                tensors[f"blocks.{block}.{layer.name}.weight"] = weight
            else:
                stream += qlinear.encode(weight, cell.bit)
        if block == cell.merge_block:
            stream += b"".join(qlinear.encode(draw(shape), 1) for shape in refinement)
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(tensors, folder / f"{_NAME}.pth")
    if stream:
        (folder / f"{_NAME}.bin").write_bytes(stream)
    _write_side_files(folder, cell, architecture, classes)
    return folder / _NAME


def _write_side_files(folder: Path, cell: Cell, architecture: str, classes: int) -> None:
    config = folder / "configs" / cell.method / f"{_NAME}-bit{cell.bit}-dim{cell.dim}.yaml"
    config.parent.mkdir(parents=True)
    config.write_text(
        f"backbone: {architecture}\nbit: {cell.bit}\ndataset: {_NAME}\ndim: {cell.dim}\n"
        f"method: {cell.method}\nnum_class: {classes}\nscale: {_SCALE}\n"
    )
    params = folder / _NAME / "params.sh"
    params.parent.mkdir()
    params.write_text(
        f"python train.py --dataset {_NAME} --method {cell.method} --bit {cell.bit} "
        f"--dim {cell.dim} --scale {_SCALE} --r_layer {cell.merge_block or 0}\n"
    )


def measure(cell: Cell, images: ImageSet, architecture: str) -> Row:
    """Write one run, read it back, export it both ways and compare both with float64.

    Raises:
        ParityError: What was read is not what was written.
    """
    verify = registry.import_or_explain("fpet_export.steps.verify")
    reference = registry.import_or_explain("fpet_export.steps.float64_reference")
    graphs = registry.import_or_explain("fpet_export.steps.graph_outputs")
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, as_engine_error(str(cell)):
        run = write_run(Path(folder) / "run", cell, architecture)
        adapted = registry.import_or_explain("fpet_export").load(
            run, backbone=f"random:{architecture}:0"
        )
        _check_reading(adapted, cell)
        check = reference.begin(adapted, images)
        graph = adapted.fold().freeze(batch=1, target="cpu").to_onnx(Path(folder) / "model.onnx")
        frozen = graphs.graph_outputs(graph, images.pixels)
        row = verify.onnx_row(check, graph, lambda done: None)
        graph.unlink()
        naive = _naive_outputs(adapted, images, Path(folder) / "naive.onnx")
    margin = check.outputs.margin
    tokens = adapted.model.spec.tokens
    del adapted
    gc.collect()
    return Row(
        cell=cell,
        frozen=outcome(frozen, check.outputs, tokens=tokens, row=row),
        naive=outcome(naive, check.outputs, tokens=tokens),
        smallest_margin=None if margin is None else float(margin.min()),
        seconds=time.monotonic() - start,
    )


def _check_reading(adapted: Any, cell: Cell) -> None:
    found = adapted.checkpoint
    read = Cell(method=found.method, bit=found.bit, merge_block=found.merge_block)
    if read != cell:
        raise ParityError(
            f"the run was written as {cell} and read as {read}",
            where="fpet_export.load",
            fix="report this",
        )


def _naive_outputs(adapted: Any, images: ImageSet, path: Path) -> ModelOutputs:
    """Export the adapted model as it is and run it, with its sizes where they can be found."""
    plain = registry.import_or_explain("fpet_export.steps.naive_export")
    ort = registry.import_or_explain("engines.backends.ort")
    taps = registry.import_or_explain("engines.onnx_graph.taps")
    onnx = registry.import_or_explain("onnx")
    (path.parent / "probed").mkdir()
    plain.naive_export(adapted.model, path, batch=1, quality="random")
    # Proportional attention takes the logarithm of the sizes, and nothing else here takes one.
    logs = {node.input[0] for node in onnx.load(path).graph.node if node.op_type == "Log"}
    probes = {"size": logs.pop()} if len(logs) == 1 else {}
    outside = dataclasses.replace(
        adapted.preprocessing, in_graph=False, layout="NCHW", dtype="float32"
    )
    inputs = to_input(images.pixels, outside)
    probed = taps.with_outputs(path, probes.values(), path.parent / "probed")
    with ort.open_engine(probed, None, options=OpenOptions()) as engine:
        name = engine.inputs[0].name
        outputs = [engine.run({name: inputs[i : i + 1]}) for i in range(len(inputs))]
        logits = engine.outputs[0].name
    size = np.stack([out[probes["size"]].ravel() for out in outputs]) if probes else None
    return ModelOutputs(logits=np.concatenate([out[logits] for out in outputs]), size=size)


def outcome(
    actual: ModelOutputs, reference: ModelOutputs, *, tokens: int, row: StageParity | None = None
) -> Outcome:
    """Compare over all images, ties included.

    Args:
        actual: What the graph said.
        reference: What float64 said.
        tokens: Patches and prefix tokens.
        row: The judged comparison of a graph that shows its match, for the flips.
    """
    difference = float(np.abs(actual.logits.astype(np.float64) - reference.logits).max())
    same = actual.logits.argmax(axis=1) == reference.logits.argmax(axis=1)
    kept = None
    if actual.size is not None:
        sums = np.rint(actual.size.astype(np.float64).sum(axis=1))
        kept = tuple(int(total) for total in sums)
    return Outcome(
        largest_logit_difference=difference,
        relative=difference / float(np.abs(reference.logits).max()),
        agreement=float(same.mean()),
        tokens_expected=tokens,
        tokens_kept=kept,
        unexplained_flips=row.unexplained_flips if row else None,
        explained_flips=row.explained_flips if row else None,
        relative_without_ties=row.relative if row else None,
    )


def missed(row: Row) -> list[str]:
    """Return the goals that the frozen graph misses, in words."""
    found, problems = row.frozen, []
    judged = found.relative if found.relative_without_ties is None else found.relative_without_ties
    if judged > LIMIT:
        problems.append(f"relative difference {judged:.1e}, goal {LIMIT:.0e}")
    if found.unexplained_flips:
        problems.append(f"{found.unexplained_flips} unexplained flips, goal 0")
    if found.tokens_lost:
        problems.append(f"{found.tokens_lost} tokens lost, goal 0")
    return problems


def format_rows(rows: Sequence[Row]) -> str:
    """Return the table as text."""
    heads = (
        "method", "bit", "merge", "rel Δ", "flips", "tied", "lost", "top-1", "", "naive rel Δ",
        "lost", "top-1", "goals",
    )  # fmt: skip
    lines = [heads]
    for row in rows:
        cell, ours, naive = row.cell, row.frozen, row.naive
        lines.append(
            (
                cell.method,
                str(cell.bit),
                _text(cell.merge_block),
                f"{ours.relative:.1e}",
                _text(ours.unexplained_flips),
                _text(ours.explained_flips),
                _text(ours.tokens_lost),
                f"{ours.agreement:.0%}",
                "",
                f"{naive.relative:.1e}",
                _text(naive.tokens_lost),
                f"{naive.agreement:.0%}",
                "; ".join(missed(row)) or "met",
            )
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _text(value: int | None) -> str:
    return "–" if value is None else str(value)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and return the exit code: 7 when a goal is missed."""
    options = _parse(arguments)
    rows: list[Row] = []
    try:
        storage.refuse_overwrite(options.output, force=options.force)
        spec = registry.import_or_explain(
            "fpet_export.model.backbones.random_weights"
        ).spec_of_name(options.arch, where="--arch")
        images = natural_set(spec.image, options.images)
        sys.stdout.write(f"{options.arch}, random weights; {images.description}\n\n")
        environment = dataclasses.asdict(read_environment())
        for row in _rows(images, options):
            rows.append(row)
            sys.stdout.write(f"{format_rows([row]).splitlines()[1]}  {row.seconds:.0f} s\n")
            sys.stdout.flush()
            storage.write_text(
                options.output, to_text(_document(rows, images, environment, options))
            )
    except FpetError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    sys.stdout.write(f"\n{format_rows(rows)}\n\n{options.output}\n")
    return ParityError.exit_code if any(missed(row) for row in rows) else 0


def _rows(images: ImageSet, options: argparse.Namespace) -> Iterator[Row]:
    for cell in cells():
        chosen = (options.methods, options.bits, options.merge_blocks)
        if all(
            value in values for value, values in zip(dataclasses.astuple(cell), chosen, strict=True)
        ):
            yield measure(cell, images, options.arch)


def _document(
    rows: Sequence[Row], images: ImageSet, environment: dict[str, Any], options: argparse.Namespace
) -> dict[str, Any]:
    words = [f"--images={len(images)}", f"--arch={options.arch}"]
    for name in ("methods", "bits", "merge_blocks"):
        values = ("none" if value is None else str(value) for value in getattr(options, name))
        words.append(f"--{name.replace('_', '-')}={','.join(values)}")
    return {
        "schema": SCHEMA,
        "kind": "fidelity",
        "architecture": options.arch,
        "weights": "random",
        "images": images.description,
        "reference": "the adapted model in float64, in PyTorch",
        "runtime": "ONNX Runtime on the CPU, float32",
        "goals": {"relative": LIMIT, "unexplained_flips": 0, "tokens_lost": 0},
        "environment": environment,
        "command": ["python", "-m", "benchmarks.experiments.fidelity", *words],
        "rows": [dataclasses.asdict(row) | {"missed": missed(row)} for row in rows],
    }


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.experiments.fidelity",
        description=(__doc__ or "").partition("\n")[0],
    )
    parser.add_argument("-o", "--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--images", type=int, default=8, help="natural images a run")
    parser.add_argument("--arch", default="vit_base_patch16_224", help="timm's name")
    parser.add_argument("--methods", type=_words, default=METHODS, help="such as lora,adaptformer")
    parser.add_argument("--bits", type=_numbers, default=BITS, help="such as 1,32")
    parser.add_argument(
        "--merge-blocks", type=_blocks, default=MERGE_BLOCKS, help="6, none or 6,none"
    )
    parser.add_argument("--force", action="store_true", help="replace the JSON file")
    return parser.parse_args(arguments)


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(word) for word in text.split(","))


def _blocks(text: str) -> tuple[int | None, ...]:
    return tuple(None if word == "none" else int(word) for word in text.split(","))


if __name__ == "__main__":
    sys.exit(main())
