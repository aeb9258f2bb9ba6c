"""What a run answers as it was trained, and how an engine's answers compare with that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from engines.engine import open_engine
from engines.imaging.source import collect, open_source
from engines.imaging.synthetic import synthetic_set
from engines.manifest import Manifest, Preprocessing, read_manifest
from engines.parity.comparison import ReferenceOutputs
from engines.parity.model_outputs import ModelOutputs
from engines.parity.outputs import engine_outputs
from engines.parity.reference_file import read_reference, write_reference
from fpet_export.reporter import Reporter
from fpet_export.requests import CheckImages, Run
from fpet_export.steps import check_images, runs
from fpet_export.steps.float64_reference import check_labels
from fpet_export.steps.parity_images import DEFAULT_IMAGES
from fpet_export.steps.typing_images import DEFAULT_CALIBRATION
from fpet_export.sweep import inputs
from fpet_export.sweep.store import Found
from fpet_export.workflow.quantize import QuantizeRequest

_FILE = "reference.npz"


def of_run(
    run: Run, request: CheckImages, reporter: Reporter, folder: Path, *, halved: bool
) -> Found:
    """Ask a run about images, and keep both.

    Args:
        run: The run.
        request: The images.
        reporter: Hears of them.
        folder: Where to keep them.
        halved: Whether every second image of the set calibrates and is left out here.

    Raises:
        CheckpointError: The run cannot be read.
        InputError: The images cannot be read, or are labelled with other classes.
    """
    adapted = runs.load_run(run)
    reporter.step("inspect", runs.describe(adapted))
    for warning in adapted.checkpoint.warnings:
        reporter.step("note", warning, passed=None)
    read = [*adapted.checkpoint.files, *adapted.backbone.files]
    read += [path for path in (run.config, request.labels) if path is not None]
    files = inputs.hashes(read)
    if request.data is None:
        images = synthetic_set(adapted.preprocessing.size, DEFAULT_IMAGES)
    else:
        classes = adapted.known_classes
        known = check_images.known_classes(classes.count, request.labels, run=classes)
        source = open_source(request.data, adapted.preprocessing)
        source = source.halves()[1] if halved else source
        source = source.spread(min(len(source), request.limit or len(source)))
        files |= inputs.of_images(request.data, [source])
        images = collect(check_images.checked(source, known, request, reporter))
    check_labels(images, adapted.model.spec.classes)
    said = adapted.outputs(images.pixels, dtype=torch.float32)
    reference = ReferenceOutputs(
        name=f"{adapted.checkpoint.name} as it was trained",
        images=images,
        outputs=ModelOutputs(logits=said.logits, head=said.head),
    )
    write_reference(folder / _FILE, reference)
    return Found(
        facts={
            "images": images.description,
            "labels": images.labels_found,
            "accuracy": reference.accuracy(),
            "macs": sum(adapted.macs()),
            "macs_without_merging": adapted.macs_without_merging(),
            "tokens": adapted.merge_plan().tokens[-1],
            "weights": adapted.quality,
        },
        inputs=files,
    )


def of_engine(engine: Path, reference: Path) -> dict[str, Any]:
    """Return how an engine's answers compare with those of its run, as plain values.

    Args:
        engine: The engine.
        reference: The folder in which `of_run` has kept its answers.

    Raises:
        TrustError: The answers of the run are damaged.
        ParityError: The engine answers with something that is no number.
    """
    told = read_reference(reference / _FILE)
    with open_engine(engine) as opened:
        outputs = engine_outputs(opened, read_manifest(engine), told.images.pixels)
    row = told.compare(engine.stem, outputs, judged=False)
    return {
        "images": row.images,
        "agreement": row.agreement,
        "cosine": row.cosine,
        "accuracy": row.accuracy,
        "reference_accuracy": told.accuracy(),
        "sqnr_db": row.sqnr_db,
        "labels": told.images.labels_found,
    }


def calibration_files(request: QuantizeRequest, manifest: Manifest) -> dict[str, str]:
    """Return the hashes of what a quantization read besides its graph."""
    preprocessing = manifest.preprocessing
    assert preprocessing is not None
    found = inputs.hashes(path for path in (request.labels, *request.table) if path is not None)
    for path in (request.calibration, request.data):
        if path is not None:
            found |= inputs.of_images(path, _chosen(path, request, preprocessing))
    return found


def _chosen(path: Path, request: QuantizeRequest, preprocessing: Preprocessing) -> list[Any]:
    source = open_source(path, preprocessing)
    count = request.images or DEFAULT_CALIBRATION
    if path == request.calibration:
        return [source.spread(count)]
    if request.calibration is not None or request.table:
        return [source.spread(request.limit)]
    half, rest = source.halves()
    return [half.spread(count), rest.spread(request.limit)]
