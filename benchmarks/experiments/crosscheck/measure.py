"""Run a typed graph as it is written, build it with TensorRT-RTX, and make its row."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tempfile
from pathlib import Path

from benchmarks.conditions.environment import read_environment
from benchmarks.experiments.crosscheck.graphs import (
    TARGET,
    Attempt,
    Prepared,
    command_line,
    make,
    run_logged,
)
from benchmarks.experiments.crosscheck.rows import Kernels, Row, kernels_of, quality_of
from engines import registry, storage
from engines.contract import OpenOptions
from engines.engine import open_engine
from engines.errors import EngineError, FpetError
from engines.fusion.report import fusion_path, read_fusion
from engines.manifest import from_json, read_manifest
from engines.parity.model_outputs import ModelOutputs
from engines.parity.outputs import engine_outputs
from engines.precisions import FP8, FP16, INT8

EXECUTOR = (
    "ONNX Runtime on the CPU with every Q/DQ pair and every rounding to half precision executed "
    "as written (rewrites: keep-qdq)"
)
CAPABILITIES = {FP16: "8.6", INT8: "8.6", FP8: "8.9"}
"""What each precision is built for; FP8 exists from 8.9 on."""

_MATCH = "ArgMax"


def outputs_of(onnx: Path, prepared: Prepared) -> ModelOutputs:
    """Run a graph over the measured images, with its match where it shows one.

    Raises:
        EngineError: ONNX Runtime refuses the graph.
    """
    with tempfile.TemporaryDirectory(dir=prepared.folder) as folder:
        tapped, match = _with_match(onnx, Path(folder))
        manifest = dataclasses.replace(
            read_manifest(prepared.onnx), probes={"match": match} if match else {}
        )
        with open_engine(tapped, options=OpenOptions(rewrites="keep-qdq")) as engine:
            evidence = engine_outputs(engine, manifest, prepared.measured.pixels)
    if evidence.match is None or manifest.model is None:
        return evidence
    # The argmax runs over all tokens; those of set A, which are the last, are the match.
    merged = manifest.model.tokens[(manifest.model.merged_blocks or (0,))[0]]
    sources = evidence.match.shape[1] - merged
    return dataclasses.replace(evidence, match=evidence.match[:, -sources:])


def _with_match(onnx: Path, folder: Path) -> tuple[Path, str | None]:
    """Write a copy whose match is an output too, whatever a tool renamed: its only ArgMax."""
    package = registry.import_or_explain("onnx")
    model = package.load(str(onnx))
    found = [node.output[0] for node in model.graph.node if node.op_type == _MATCH]
    match = found[0] if len(found) == 1 else None
    if match is not None:
        kind = package.TensorProto.INT64
        model.graph.output.append(package.helper.make_tensor_value_info(match, kind, None))
    path = folder / "tapped.onnx"
    package.save_model(model, str(path), save_as_external_data=True, location="tapped.weights")
    return path, match


def build_kernels(onnx: Path, compute_capability: str) -> Kernels:
    """Build a graph with TensorRT-RTX and count its kernels.

    Raises:
        EngineError: It cannot be built.
    """
    with tempfile.TemporaryDirectory(dir=onnx.parent) as folder:
        plan = Path(folder) / "built.plan"
        words = ("build", str(onnx), "--target", TARGET, "--sm", compute_capability)
        run_logged(command_line(*words, "-o", str(plan)), onnx.with_suffix(".build.log"))
        return kernels_of(read_fusion(fusion_path(plan)), compute_capability)


def row_of(attempt: Attempt, prepared: Prepared, reference: ModelOutputs) -> Row:
    """Make, run and build one graph; what fails is said in the row.

    What was measured once is kept beside the graph, and taken from there as long as graph, images
    and packages are the same: one pass over labelled images takes minutes.
    """
    row = Row(tool=attempt.tool, settings=attempt.settings, precision=attempt.precision)
    try:
        make(attempt, prepared)
    except EngineError as error:
        return dataclasses.replace(row, failures=(f"not made: {_sentence(error)}",))
    note = attempt.output.with_suffix(".row.json")
    state = _state_of(attempt, prepared)
    kept = _kept_row(note, state)
    if kept is not None:
        return kept
    row = _measured(attempt, row, prepared, reference)
    note.write_text(json.dumps({"state": state, "row": dataclasses.asdict(row)}))
    return row


def _measured(attempt: Attempt, row: Row, prepared: Prepared, reference: ModelOutputs) -> Row:
    failures = []
    row = dataclasses.replace(row, file_bytes=sum(path.stat().st_size for path in _files(attempt)))
    try:
        quality = quality_of(
            outputs_of(attempt.output, prepared), reference, prepared.measured.labels
        )
        row = dataclasses.replace(row, quality=quality)
    except FpetError as error:
        failures.append(f"not run: {_sentence(error)}")
    try:
        kernels = build_kernels(attempt.output, CAPABILITIES[attempt.precision])
        row = dataclasses.replace(row, kernels=kernels)
    except EngineError as error:
        failures.append(f"TensorRT-RTX does not build it: {_sentence(error)}")
    return dataclasses.replace(row, failures=tuple(failures))


def _state_of(attempt: Attempt, prepared: Prepared) -> list[str]:
    """Return what decides a row: both graphs, the images, and what runs and builds them."""
    files = [storage.sha256_of(path) for path in (prepared.onnx, *_files(attempt))]
    images = hashlib.sha256(prepared.measured.pixels.tobytes()).hexdigest()
    packages = sorted(f"{name} {found}" for name, found in read_environment().packages.items())
    return [*files, images, EXECUTOR, *packages]


def _kept_row(note: Path, state: list[str]) -> Row | None:
    """Return the row of an earlier run over the same bytes, or None."""
    try:
        document = json.loads(note.read_text())
        return from_json(Row, document["row"]) if document["state"] == state else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _sentence(error: FpetError) -> str:
    """Return the first sentence of what happened, which names no file of this machine."""
    said = error.what.rpartition("error: ")[2]
    return said.partition("\n")[0].partition(". ")[0]


def _files(attempt: Attempt) -> list[Path]:
    """Return a graph and the weights beside it."""
    onnx = attempt.output
    beside = (onnx.with_name(f"{onnx.name}{end}") for end in ("_data", ".data"))
    return [path for path in (onnx, *beside) if path.exists()]
