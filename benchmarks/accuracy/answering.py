"""Ask an engine about images that are read one by one."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from benchmarks.accuracy.journal import Journal
from benchmarks.accuracy.scores import IntArray, best_classes
from engines.contract import OpenOptions
from engines.engine import open_engine
from engines.errors import UsageError
from engines.imaging.images import PixelArray
from engines.imaging.source import ImageSource
from engines.manifest import Manifest
from engines.parity.finite import require_finite
from engines.parity.outputs import engine_outputs

AT_ONCE = 64
"""Images that are in memory, and that are lost at most when a run is interrupted."""

Progress = Callable[[int], None]
"""Hears of so many more images."""


def answers(
    path: Path,
    manifest: Manifest,
    source: ImageSource,
    journal: Journal,
    *,
    options: OpenOptions,
    progress: Progress,
) -> IntArray:
    """Return (I, `scores.KEPT`) the best classes of every image, those of a journal included.

    Args:
        path: The artefact.
        manifest: Its manifest.
        source: The images, which can all be read.
        journal: What is known already, and where the rest is kept.
        options: How the artefact is opened: as it was timed.
        progress: Hears of each part.

    Raises:
        UsageError: It gives no classes.
        ParityError: Its logits are not finite.
        InputError: An image has become unreadable.
    """
    if manifest.head != "logits":
        raise UsageError(
            f"it gives {manifest.head}, and only logits name a class",
            where=str(path),
            fix="leave --data out, or export with --head logits",
        )
    done = len(journal.known(manifest.sha256))
    progress(done)
    if done < len(source):
        names = [location.name for location in source.locations]
        with open_engine(path, options=options) as engine:
            for pixels in _parts(source.pixels(skip=done)):
                found = engine_outputs(engine, manifest, pixels)
                require_finite(found, names[done:], of=path)
                journal.add(manifest.sha256, best_classes(found.logits))
                done += len(pixels)
                progress(len(pixels))
    return journal.known(manifest.sha256)


def identity(source: ImageSource) -> str:
    """Return a hash of which images these are, and in which order: names, sizes and times."""
    digest = hashlib.sha256()
    for location in source.locations:
        state = location.path.stat()
        line = f"{location.path.resolve()}|{location.row}|{state.st_size}|{state.st_mtime_ns}\n"
        digest.update(line.encode())
    return digest.hexdigest()


def _parts(pixels: Iterator[PixelArray]) -> Iterator[PixelArray]:
    while part := list(itertools.islice(pixels, AT_ONCE)):
        yield np.stack(part)
