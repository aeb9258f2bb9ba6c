"""Run a graph over images and note what passes its sites.

The images stream: one batch is in memory, whatever their number.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from pathlib import Path

import numpy as np

from calibration import equalise
from calibration import table as tables
from calibration.moments import Moments
from calibration.requirements import LEAST_IMAGES, require_images
from calibration.roles import Site, sites
from calibration.table import CalibrationTable, Record, Rewrites, SeenImage
from engines import precisions
from engines.contract import Array, Engine, Feeds, OpenOptions
from engines.engine import open_engine
from engines.errors import InputError
from engines.imaging.images import PixelArray
from engines.imaging.source import ImageSource
from engines.manifest import Manifest, read_manifest
from engines.onnx_graph.files import read_graph, write_graph
from engines.onnx_graph.taps import with_outputs
from engines.parity.outputs import batch_sizes, batches

Progress = Callable[[int], None]
Keep = Callable[[CalibrationTable], None]

SAVE_EVERY = 32
"""Images between two states that `keep` is given."""

FIT_IMAGES = 128
"""Images whose channels decide the rewrites, at most.

Means settle early and maxima do not: a channel that only a later image shows to be large keeps its
whole range, and all others share its steps. With 32 of 48 images one fc2 of a pretrained DINOv2
ViT-S/14 had 6 dB more noise than with all.
"""

_NOISE_CORRELATION = 0.05
"""Neighbouring pixels of a photograph correlate with 0.9 or more, those of white noise with 0."""


def collect(
    onnx: Path,
    source: ImageSource,
    *,
    rewrites: Rewrites | None = None,
    start: CalibrationTable | None = None,
    moments: bool = False,
    progress: Progress | None = None,
    keep: Keep | None = None,
) -> CalibrationTable:
    """Observe every site of a graph over the images of `source`.

    An image that was seen before counts once.

    Args:
        onnx: An exported float32 graph with its manifest.
        source: Real images, prepared as the run's own are.
        rewrites: What to move between the layers before; a `start` brings its own.
        start: A table to go on from: of an interrupted run, or of another shard.
        moments: Whether `CalibrationTable.moments` is filled, from all images of `source`: those
            that `start` holds are run again for it.
        progress: Called with the number of images done since the last call.
        keep: Called with the table so far every `SAVE_EVERY` images, to be stored.

    Raises:
        InputError: The images are too few, random or all the same, `start` is of another graph,
            or a value inside the network is not finite.
    """
    manifest = read_manifest(onnx)
    graph = read_graph(onnx)
    observed_sites = sites(graph)
    if start is None:
        table = _empty_table(onnx, manifest, source, rewrites)
    else:
        table = _go_on(start, manifest, observed_sites, source)
    if len(table.images) < LEAST_IMAGES:
        require_images(len(source), source.description)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fpet-export-")))
        observed = onnx
        if table.rewrites is not None:
            equalise.apply(graph, table.rewrites)
            observed = folder / "rewritten.onnx"
            observed_sites = sites(graph)
            write_graph(graph, observed)
        del graph
        tapped = with_outputs(observed, (site.tensor for site in observed_sites), folder)
        engine = stack.enter_context(open_engine(tapped, options=OpenOptions()))
        saved = len(table.images)
        summed: dict[str, Moments] | None = {} if moments else None
        size = batch_sizes(engine, manifest)[1]
        if summed is not None and start is not None:
            for pixels in _seen_before(source, size, start):
                for feeds, count in batches(engine, manifest, pixels):
                    _sum_moments(engine.run(feeds), observed_sites, count, summed)
        for images, pixels in _batches(source, size, table, progress):
            for feeds, count in batches(engine, manifest, pixels):
                found = _observe(engine, feeds, observed_sites, count, summed)
                table = _with_batch(table, found, images)
            if keep is not None and len(table.images) - saved >= SAVE_EVERY:
                keep(table)
                saved = len(table.images)
    if len(table.images) < LEAST_IMAGES:
        raise InputError(
            f"only {len(table.images)} of {len(source)} images differ from each other",
            where=source.description,
            fix=f"give {LEAST_IMAGES} or more different images",
        )
    return dataclasses.replace(table, moments=summed or {})


def _empty_table(
    onnx: Path, manifest: Manifest, source: ImageSource, rewrites: Rewrites | None
) -> CalibrationTable:
    """Return a table that has seen no image yet."""
    assert manifest.preprocessing is not None
    return CalibrationTable(
        graph=manifest.sha256,
        graph_file=onnx.name,
        preprocessing=manifest.preprocessing,
        images=(),
        description=source.description,
        records={},
        rewrites=rewrites,
        tools={name: metadata.version(name) for name in ("onnxruntime", "numpy", "pillow")},
    )


def calibrate(
    onnx: Path,
    source: ImageSource,
    *,
    equalising: bool = True,
    precision: str = precisions.INT8,
    start: CalibrationTable | None = None,
    moments: bool = True,
    progress: Progress | None = None,
    keep: Keep | None = None,
) -> CalibrationTable:
    """Fit the rewrites of `calibration.equalise` on a few images, then observe all of them.

    Args:
        onnx: An exported float32 graph with its manifest.
        source: See `collect`.
        equalising: Whether layers are rewritten at all; a `start` has decided that already.
        precision: What they are fitted for, int8 or fp8; the table serves both.
        start: See `collect`.
        moments: See `collect`; the form for CPUs ("gemm") rounds its weights without them.
        progress: See `collect`; `runs` is what it sums to.
        keep: See `collect`.

    Raises:
        InputError: See `collect`.
    """
    rewrites = None
    if equalising and start is None:
        first = collect(onnx, source.spread(FIT_IMAGES), progress=progress)
        rewrites = equalise.fit(read_graph(onnx), first, precision)
    return collect(
        onnx, source, rewrites=rewrites, start=start, moments=moments, progress=progress, keep=keep
    )


def runs(source: ImageSource, *, fits: bool) -> int:
    """Return how many images `calibrate` runs, those twice on which it fits the rewrites."""
    return len(source) + (min(len(source), FIT_IMAGES) if fits else 0)


def pixel_hash(pixels: PixelArray) -> str:
    """Return the SHA-256 of an image's preprocessed pixels, which name it whatever its file."""
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()


def is_noise(pixels: PixelArray) -> bool:
    """Say whether neighbouring pixels have nothing to do with each other."""
    grey = pixels.astype(np.float64).mean(axis=-1)
    grey -= grey.mean()
    power = float((grey * grey).mean())
    if power == 0:
        return False
    across = float((grey[:, 1:] * grey[:, :-1]).mean()) / power
    down = float((grey[1:] * grey[:-1]).mean()) / power
    return max(across, down) < _NOISE_CORRELATION


def _batches(
    source: ImageSource, size: int, known: CalibrationTable, progress: Progress | None
) -> Iterator[tuple[tuple[SeenImage, ...], PixelArray]]:
    """Yield the images that are new, up to `size` at a time, and refuse a set of noise."""
    hashes = set(known.hashes)
    noisy = 0
    images: list[SeenImage] = []
    waiting: list[PixelArray] = []
    both = zip(source.locations, source.pixels(), strict=True)
    for looked, (location, pixels) in enumerate(both, start=1):
        noisy += is_noise(pixels)
        if noisy * 2 > looked and looked >= LEAST_IMAGES:
            raise InputError(
                f"{noisy} of the first {looked} images are random noise",
                where=source.description,
                fix="calibrate on images like those that the network will see",
            )
        found = pixel_hash(pixels)
        if found not in hashes:
            hashes.add(found)
            images.append(SeenImage(location.name, found))
            waiting.append(pixels)
        if waiting and (len(waiting) == size or looked == len(source)):
            yield tuple(images), np.stack(waiting)
            images, waiting = [], []
        if progress is not None:
            progress(1)


def _seen_before(source: ImageSource, size: int, table: CalibrationTable) -> Iterator[PixelArray]:
    """Yield the images that a table holds, each once, up to `size` at a time."""
    left = set(table.hashes)
    waiting: list[PixelArray] = []
    for pixels in source.pixels():
        found = pixel_hash(pixels)
        if found in left:
            left.remove(found)
            waiting.append(pixels)
        if len(waiting) == size:
            yield np.stack(waiting)
            waiting = []
    if waiting:
        yield np.stack(waiting)


def _observe(
    engine: Engine,
    feeds: Feeds,
    observed: list[Site],
    count: int,
    summed: dict[str, Moments] | None,
) -> dict[str, Record]:
    outputs = engine.run(feeds)
    try:
        records = {
            site.name: tables.seen(outputs[site.tensor][:count], channels=site.kind == "input")
            for site in observed
        }
    except ValueError as error:
        raise InputError(
            f"the network computes values that are not finite: {error}",
            where=engine.name,
            fix="check the checkpoint: quantizing cannot mend it",
        ) from error
    if summed is not None:
        _sum_moments(outputs, observed, count, summed)
    return records


def _sum_moments(
    outputs: Mapping[str, Array], observed: list[Site], count: int, summed: dict[str, Moments]
) -> None:
    for site in observed:
        if site.kind == "input":
            values = outputs[site.tensor][:count]
            if site.name not in summed:
                summed[site.name] = Moments(values.shape[-1])
            summed[site.name].add(values)


def _with_batch(
    table: CalibrationTable, observed: dict[str, Record], images: tuple[SeenImage, ...]
) -> CalibrationTable:
    records = {
        name: tables.merged_record(table.records[name], record) if table.records else record
        for name, record in observed.items()
    }
    return dataclasses.replace(table, records=records, images=table.images + images)


def _go_on(
    start: CalibrationTable, manifest: Manifest, observed: list[Site], source: ImageSource
) -> CalibrationTable:
    tables.require_table_of(start, manifest, [site.name for site in observed])
    if start.description == source.description:
        return start
    return dataclasses.replace(start, description=f"{start.description} and {source.description}")
