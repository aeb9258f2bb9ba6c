"""What an artefact says about images, and how far artefacts are from each other.

Needs numpy and the artefact's own runtime, so that a board can check its engine against the graph.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from engines.commands import command
from engines.contract import Engine, Feeds, OpenOptions
from engines.engine import open_engine
from engines.errors import FpetError, InputError
from engines.imaging.images import ImageSet, PixelArray, one_grey_level_off, to_input
from engines.imaging.synthetic import synthetic_set
from engines.manifest import Manifest, Preprocessing, is_task_folder, manifest_path, read_manifest
from engines.parity.comparison import ReferenceOutputs
from engines.parity.finite import require_finite
from engines.parity.gates import NO_GATES, Gates, gates_by_control, gates_of
from engines.parity.model_outputs import IntArray, ModelOutputs
from engines.parity.rounding import rounding_in
from engines.parity.rows import ParityTable

Progress = Callable[[int], None]
DEFAULT_IMAGES = 4
CONTROL = "one grey level off"


def compare(
    reference: Path | str,
    *others: Path | str,
    images: ImageSet | None = None,
    gates: Gates | None = None,
) -> ParityTable:
    """Compare what graphs and engines give with what the first one does.

    Args:
        reference: A graph or an engine with its manifest.
        others: The artefacts to judge.
        images: What to compare on; by default a few synthetic images.
        gates: Limits; by default those of float32.

    Returns:
        One row an artefact. `engines.parity.rows.judge` turns a missed gate into an error.

    Raises:
        InputError: An artefact has no manifest, so nobody knows its preprocessing.
        EngineError: One of them does not run here.
    """
    first = Path(reference)
    images = default_images(first) if images is None else images
    expected = ReferenceOutputs(
        name=f"artefact {first.name}",
        images=images,
        outputs=outputs_of(first, images.pixels),
        gates=gates or Gates(),
    )
    return expected.table(
        expected.compare(Path(other).name, outputs_of(Path(other), images.pixels))
        for other in others
    )


def default_images(path: Path) -> ImageSet:
    """Return a few synthetic images of the size that an artefact takes.

    Raises:
        InputError: Its manifest does not say which.
    """
    return synthetic_set(preprocessing_of(path).size, DEFAULT_IMAGES)


def outputs_of(path: Path, pixels: PixelArray, *, progress: Progress | None = None) -> ModelOutputs:
    """Open an artefact and classify (I, height, width, 3) pixels with it.

    A quantized graph runs as it is written: that is what it means. An engine runs as it was built.
    """
    manifest = manifest_of(path)
    with open_engine(path, options=as_written(manifest)) as engine:
        return engine_outputs(engine, manifest, pixels, progress=progress)


def reference_of(
    graph: Path, images: ImageSet | None = None, *, outputs: ModelOutputs | None = None
) -> ReferenceOutputs:
    """Run a graph as it is written, and say within which limits its engines must answer.

    An engine of a quantized graph is judged by what the graph does to itself. Two correct programs
    differ in the last bit before a rounding, some values round the other way, and the layers after
    that multiply it; the gate of float32 would refuse every engine. So the graph also runs on
    images that differ by one grey level in one pixel, and `gates_by_control` sets the limits. In
    half precision two correct programs are as far apart as the graph is from float32.

    Args:
        graph: With its manifest.
        images: What to run on; by default a few synthetic images.
        outputs: What the graph says about these images, where it has run already; None runs it
            and keeps its logits alone.

    Raises:
        ParityError: Its logits are not finite.
    """
    images = default_images(graph) if images is None else images
    if outputs is None:
        found = outputs_of(graph, images.pixels)
        outputs = ModelOutputs(logits=found.logits, head=found.head)
    require_finite(outputs, images.names, of=graph)
    manifest = manifest_of(graph)
    expected = ReferenceOutputs(
        name=graph.name,
        images=images,
        outputs=outputs,
        gates=gates_of(manifest.precision, rounding=rounding_in(manifest.parity)),
    )
    if not manifest.is_quantized:
        return expected
    other = outputs_of(graph, one_grey_level_off(images.pixels))
    control = expected.compare(f"{graph.name} {CONTROL}", other, gates=NO_GATES)
    return dataclasses.replace(expected, gates=gates_by_control(control), control=control)


def compare_built(
    graph: Path, engine: Path, *, expected: ReferenceOutputs | None = None
) -> ParityTable:
    """Compare an engine with the graph it was built from.

    Args:
        graph: With its manifest.
        engine: Likewise.
        expected: What the graph says, where that is known; None runs it on a few synthetic images.

    Returns:
        The engine's row; before it, for a quantized graph, that of the graph on the other images,
        which is not judged.
    """
    expected = expected or reference_of(graph)
    row = expected.compare(engine.name, outputs_of(engine, expected.images.pixels))
    return expected.table(
        (row,) if expected.control is None else (expected.control, row),
        reference=f"artefact {graph.name}",
    )


def as_written(manifest: Manifest) -> OpenOptions:
    """Return how an artefact is opened to learn what it means, see `outputs_of`.

    What failed its check opens, too: how else would anybody find out why.
    """
    is_quantized = manifest.kind == "graph" and manifest.is_quantized
    return OpenOptions(rewrites="keep-qdq" if is_quantized else None, allow_failed=True)


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
    """Return the manifest of a graph of ours that runs on images alone.

    Raises:
        InputError: There is none, so nobody knows its preprocessing; or many tasks share the
            artefact, and it does not run without one.
    """
    if is_task_folder(path):
        raise InputError(
            "this is a folder of tasks, not a graph or an engine",
            where=str(path),
            fix=f"{command('inspect', path)} lists them; bench, check, compare, predict and show "
            "take one with --task NAME",
        )
    if not manifest_path(path).exists():
        raise InputError(
            "this graph has no manifest, so its preprocessing is unknown",
            where=str(path),
            fix="export it with `fpet-export export`, or keep model.manifest.json beside it",
        )
    manifest = read_manifest(path)
    if manifest.is_shared:
        raise InputError(
            "many tasks share this artefact, and one of them must bring its weights",
            where=str(path),
            fix=f"use the folder of tasks; {command('inspect', path.parent)} lists them",
        )
    return manifest


def tokens_of(manifest: Manifest) -> int | None:
    """Return patches and prefix tokens, which an audit must find; None without a merge.

    None as well where the merger does not count patches by design.
    """
    model = manifest.model
    if model is None or not model.merges or not model.counts_patches:
        return None
    return model.prefix_tokens + model.grid[0] * model.grid[1]


def engine_outputs(
    engine: Engine,
    manifest: Manifest,
    pixels: PixelArray,
    *,
    progress: Progress | None = None,
) -> ModelOutputs:
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
    return ModelOutputs(
        logits=logits,
        match=match_in({role: found[name] for role, name in roles.items()}, manifest),
        size=found[roles["size"]] if "size" in roles else None,
        head=manifest.head,
    )


def match_in(found: Mapping[str, np.ndarray], manifest: Manifest) -> IntArray | None:
    """Return (I, Na) the matches among probes by role, blocks side by side; None if one is missing.

    Args:
        found: What was read, by role.
        manifest: Of the artefact.
    """
    model = manifest.model
    roles = ["match"]  # of a graph that nothing else is known of
    if model is not None and model.merges:
        roles = [model.match_role(block) for block in model.merged_blocks]
    if not all(role in found for role in roles):
        return None
    return np.concatenate([found[role] for role in roles], axis=1)


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
        feed = to_input(filled, manifest.preprocessing, dtype=spec.dtype)
        yield {spec.name: feed}, len(part)


def batch_sizes(engine: Engine, manifest: Manifest) -> tuple[int, int]:
    """Return the smallest and the largest batch that an engine takes."""
    first = engine.inputs[0].shape[0]
    return (first, first) if isinstance(first, int) else manifest.batch_range or (1, 1)


def runnable(path: Path) -> FpetError | None:
    """Return why an engine cannot be opened on this machine, or None when it can."""
    try:
        with open_engine(path, options=OpenOptions(allow_failed=True)):
            return None
    except FpetError as error:
        return error
