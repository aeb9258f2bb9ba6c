"""Tiny exported graphs with their manifests, images for them, and a plain way to run them."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from engines.engine import load_target
from engines.imaging.images import ImageSet, to_input
from engines.imaging.source import ImageSource, open_source
from engines.imaging.synthetic import synthetic_set
from engines.manifest import Preprocessing, read_manifest
from engines.onnx_graph.files import Graph, read_graph, write_graph
from fpet_export.model.backbones import Backbone
from fpet_export.model.facts import Fact
from fpet_export.stages import Adapted
from tests.fpet_export.tiny import adapted, backbone_of, checkpoint_of, spec_of

DEPTH, MERGE_BLOCK, SIDE = 3, 1, 16


def export(
    folder: Path,
    *,
    target: str = "rtx",
    method: str = "lora",
    merge_block: int | None = MERGE_BLOCK,
    merge: str | None = None,
    batch: int | tuple[int, int] = 1,
    input: str = "float32",
    opset: int | None = None,
    **spec_changes: Any,
) -> Path:
    """Export a tiny ViT of width 64 with random weights; 17 tokens become 9 in the second block."""
    spec = spec_of(**({"depth": DEPTH} | spec_changes))
    checkpoint = checkpoint_of(spec, method, merge_block=merge_block)
    if merge is not None:
        checkpoint = checkpoint.merged(merge)
    backbone: Backbone = backbone_of(spec)
    model = Adapted(
        model=adapted(spec, checkpoint),
        checkpoint=checkpoint,
        backbone=backbone,
        preprocessing=dataclasses.replace(backbone.preprocessing, in_graph=False),
        normalisation=Fact("none", "the test"),
    )
    place = load_target(target)
    options: dict[str, Any] = {"batch": batch, "target": place, "input": input, "opset": opset}
    return model.fold().freeze(**options).to_onnx(folder)


class Exports:
    """Exports each variant once a session, for all of pytest's workers: the first use makes it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @classmethod
    def of_session(cls, factory: pytest.TempPathFactory) -> Exports:
        base = factory.getbasetemp()
        folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "exports"
        folder.mkdir(exist_ok=True)
        return cls(folder)

    def __call__(self, **variant: Any) -> Path:
        words = repr(sorted(variant.items())).encode()
        place = self._folder / hashlib.sha256(words).hexdigest()[:16]
        if not place.exists():
            with tempfile.TemporaryDirectory(dir=self._folder) as own:
                export(Path(own) / "made", **variant)
                with contextlib.suppress(OSError):  # another worker was faster
                    (Path(own) / "made").rename(place)
        return place / "model.onnx"


@functools.cache
def images_of(count: int, *, seed: int = 0, side: int = SIDE) -> ImageSet:
    """Synthetic images with labels that count through the classes."""
    images = synthetic_set((side, side), count, seed=seed)
    return dataclasses.replace(images, labels=np.arange(count) % 5)


def write_shard(path: Path, images: ImageSet) -> Path:
    """Write images as one `.npz` shard."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if images.labels is None:
        np.savez(path, images=images.pixels)
    else:
        np.savez(path, images=images.pixels, labels=images.labels)
    return path


def source_of(path: Path, images: ImageSet, graph: Path) -> ImageSource:
    """Write images as a shard and list them as they are prepared for a graph."""
    return open_source(write_shard(path, images), preprocessing_of(graph))


def preprocessing_of(graph: Path) -> Preprocessing:
    found = read_manifest(graph).preprocessing
    assert found is not None
    return found


def feed_of(graph: Path, images: ImageSet) -> np.ndarray:
    return to_input(images.pixels, preprocessing_of(graph))


def run(
    path: Path | onnx.ModelProto, feed: np.ndarray, outputs: Sequence[str] = ("logits",)
) -> list[np.ndarray]:
    """Run a graph as it is written, one image at a time, and join the rows."""
    model = onnx.load(str(path)) if isinstance(path, Path) else path
    known = {value.name for value in model.graph.output}
    for name in outputs:
        if name not in known:
            model.graph.output.append(onnx.ValueInfoProto(name=name))
    settings = onnxruntime.SessionOptions()
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    settings.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), settings, providers=["CPUExecutionProvider"]
    )
    (given,) = session.get_inputs()
    rows = given.shape[0] if isinstance(given.shape[0], int) else len(feed)
    found = [
        session.run(list(outputs), {given.name: feed[start : start + rows]})
        for start in range(0, len(feed), rows)
    ]
    return [np.concatenate(parts) for parts in zip(*found, strict=True)]


def saved(graph: Graph, path: Path) -> Path:
    """Write a graph that a test changed."""
    write_graph(graph, path)
    return path


def fresh(path: Path) -> Graph:
    """Read a graph for a test that changes it."""
    return read_graph(path)


def sqnr_db(actual: np.ndarray, expected: np.ndarray) -> float:
    noise = np.square(actual.astype(np.float64) - expected).sum()
    return float(10 * np.log10(np.square(expected.astype(np.float64)).sum() / noise))
