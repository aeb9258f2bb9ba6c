"""From an encoded image to its class, step by step: what an application waits for.

A latency counts what the engine takes. Reading, decoding and resizing a photograph on a small CPU
may take longer than that.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from pathlib import Path

import numpy as np

from benchmarks.accuracy.scores import best_classes
from benchmarks.latency import Clock
from benchmarks.paired_statistics import LatencySummary, summarise
from engines.contract import OpenOptions
from engines.engine import open_engine
from engines.imaging.decoding import decode
from engines.imaging.images import resize, to_input
from engines.imaging.source import ImageSource
from engines.manifest import Manifest
from engines.parity.outputs import batch_sizes

MOST_RUNS = 200
_FEWEST_RUNS = 20
_WARM_UP_RUNS = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class EndToEnd:
    """What the steps of one run took, each for all images of the batch, one image after the other.

    Attributes:
        batch: Images of one run.
        runs: Number of runs.
        load: Reading, decoding, resizing and cropping.
        prepare: Into the layout and type of the input.
        run: The engine, with what it copies.
        total: From the files to the classes.
    """

    batch: int
    runs: int
    load: LatencySummary
    prepare: LatencySummary
    run: LatencySummary
    total: LatencySummary


def time_end_to_end(
    path: Path,
    manifest: Manifest,
    source: ImageSource,
    *,
    options: OpenOptions,
    clock: Clock = time.perf_counter_ns,
) -> EndToEnd | None:
    """Time runs from files to classes; None where the images are no encoded files.

    Args:
        path: The artefact.
        manifest: Its manifest, of one that gives logits.
        source: The images; they are read again and again where there are few.
        options: How the artefact is opened.
        clock: Nanoseconds.
    """
    files = [location.path for location in source.locations if location.row is None]
    if not files:
        return None
    preprocessing = source.preprocessing
    with open_engine(path, options=options) as engine:
        spec, (batch, _) = engine.inputs[0], batch_sizes(engine, manifest)
        assert manifest.preprocessing is not None
        runs = min(max(len(files) // batch, _FEWEST_RUNS), MOST_RUNS)
        several = itertools.cycle(files)
        rows = []
        for _ in range(_WARM_UP_RUNS + runs):
            chosen = list(itertools.islice(several, batch))
            start = clock()
            pixels = [resize(decode(file, preprocessing).image, preprocessing) for file in chosen]
            loaded = clock()
            feed = to_input(np.stack(pixels), manifest.preprocessing, dtype=spec.dtype)
            prepared = clock()
            logits = engine.run({spec.name: feed})[engine.outputs[0].name]
            answered = clock()
            best_classes(logits)
            rows.append((loaded - start, prepared - loaded, answered - prepared, clock() - start))
    columns = np.array(rows[_WARM_UP_RUNS:], np.int64).T
    load, prepare, run, total = (summarise(column, batch=batch) for column in columns)
    return EndToEnd(batch=batch, runs=runs, load=load, prepare=prepare, run=run, total=total)


def end_to_end_line(name: str, found: EndToEnd) -> str:
    """Return the steps in words."""
    parts = (("load", found.load), ("prepare", found.prepare), ("run", found.run))
    steps = ", ".join(f"{word} {one.p50_ns / 1e6:.1f}" for word, one in parts)
    return (
        f"{name}, from file to class: p50 {found.total.p50_ns / 1e6:.1f}, p99 "
        f"{found.total.p99_ns / 1e6:.1f} ms ({steps}) · {found.runs} runs of batch {found.batch}"
    )
