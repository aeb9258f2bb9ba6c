"""What an artefact says about images, and how far artefacts are from each other.

Needs numpy and the artefact's own runtime, so that a board can check its engine against the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from engines.engine import Engine, Feeds, open_engine
from engines.errors import FpetError, InputError
from engines.images import ImageSet, PixelArray, to_input
from engines.manifest import Manifest, Preprocessing, manifest_path, read_manifest
from engines.parity import Evidence, Gates, ParityTable, compare_stage
from engines.synthetic import synthetic_set

Progress = Callable[[int], None]
DEFAULT_IMAGES = 4


def compare(
    reference: Path | str,
    *others: Path | str,
    images: ImageSet | None = None,
    gates: Gates | None = None,
) -> ParityTable:
    """Compare the logits of graphs and engines with those of the first one.

    Args:
        reference: A graph or an engine with its manifest.
        others: The artefacts to judge.
        images: What to compare on; by default a few synthetic images.
        gates: Limits; by default those of float32.

    Returns:
        One row an artefact. `engines.parity.judge` turns a missed gate into an error.

    Raises:
        InputError: An artefact has no manifest, so nobody knows its preprocessing.
        EngineError: One of them does not run here.
    """
    first = Path(reference)
    if images is None:
        images = synthetic_set(preprocessing_of(first).size, DEFAULT_IMAGES)
    expected = evidence_of(first, images.pixels)
    rows = [
        compare_stage(
            Path(other).name,
            evidence_of(Path(other), images.pixels),
            expected,
            gates=gates or Gates(),
            labels=images.labels,
        )
        for other in others
    ]
    return ParityTable(
        images=images.description, reference=f"artefact {first.name}", rows=tuple(rows)
    )


def evidence_of(path: Path, pixels: PixelArray, *, progress: Progress | None = None) -> Evidence:
    """Open an artefact and classify (I, height, width, 3) pixels with it."""
    manifest = manifest_of(path)
    with open_engine(path) as engine:
        return engine_evidence(engine, manifest, pixels, progress=progress)


def preprocessing_of(path: Path) -> Preprocessing:
    """Return how images become the input of an artefact.

    Raises:
        InputError: Its manifest does not say.
    """
    preprocessing = manifest_of(path).preprocessing
    if preprocessing is None:
        raise InputError(
            "its manifest does not say how images are preprocessed",
            where=str(path),
            fix="use artefacts that `fpet-export export` or `build` wrote",
        )
    return preprocessing


def manifest_of(path: Path) -> Manifest:
    """Return the manifest of a graph of ours.

    Raises:
        InputError: There is none, so nobody knows its preprocessing.
    """
    if not manifest_path(path).exists():
        raise InputError(
            "this graph has no manifest, so its preprocessing is unknown",
            where=str(path),
            fix="export it with `fpet-export export`, or keep model.manifest.json beside it",
        )
    return read_manifest(path)


def engine_evidence(
    engine: Engine,
    manifest: Manifest,
    pixels: PixelArray,
    *,
    progress: Progress | None = None,
) -> Evidence:
    """Classify pixels in batches of the size the engine takes; the last one is filled up."""
    rows: list[Mapping[str, np.ndarray]] = []
    for feeds, count in batches(engine, manifest, pixels):
        outputs = engine.run(feeds)
        rows.append({name: value[:count] for name, value in outputs.items()})
        if progress is not None:
            progress(count)
    found = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    roles = {role: name for role, name in manifest.probes.items() if name in found}
    logits = found[engine.outputs[0].name]
    return Evidence(
        logits=logits,
        match=found[roles["match"]] if "match" in roles else None,
        size=found[roles["size"]] if "size" in roles else None,
    )


def batches(engine: Engine, manifest: Manifest, pixels: PixelArray) -> Iterator[tuple[Feeds, int]]:
    """Yield feeds of the size that an engine takes, and how many of their rows count.

    The last batch is filled up with its last image where the engine takes no smaller one.
    """
    assert manifest.preprocessing is not None
    spec = engine.inputs[0]
    least, most = batch_sizes(engine, manifest)
    for start in range(0, len(pixels), most):
        part = pixels[start : start + most]
        filled = part
        if len(part) < least:
            filled = np.concatenate([part, np.repeat(part[-1:], least - len(part), axis=0)])
        yield {spec.name: to_input(filled, manifest.preprocessing)}, len(part)


def batch_sizes(engine: Engine, manifest: Manifest) -> tuple[int, int]:
    """Return the smallest and the largest batch that an engine takes."""
    first = engine.inputs[0].shape[0]
    return (first, first) if isinstance(first, int) else manifest.batch_range or (1, 1)


def runnable(path: Path) -> FpetError | None:
    """Return why an engine cannot be opened on this machine, or None when it can."""
    try:
        with open_engine(path):
            return None
    except FpetError as error:
        return error
