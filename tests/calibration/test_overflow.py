"""The scan for values that float16 cannot hold."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from calibration import overflow
from calibration.overflow import LARGEST_FLOAT16, Reach, judge, scan
from engines.errors import ExportError
from engines.manifest import read_manifest, write_manifest
from engines.onnx_graph.files import Graph, read_graph
from tests.calibration.exports import MERGE_BLOCK, feed_of, images_of, run, saved

IMAGES = images_of(6)
RESIDUAL = "blocks/1/Add_2"


def scaled(path: Path, folder: Path, factor: float) -> Path:
    """A copy whose second block adds `factor` times as much to the residual stream."""
    graph = read_graph(path)
    for node in graph.nodes:
        if node.name in ("blocks/1/fc2/MatMul", "blocks/1/fc2/Add"):
            for tensor in node.inputs:
                if tensor.name.startswith("blocks.1.fc2"):
                    tensor.values = tensor.values * np.float32(factor)
    return with_manifest(graph, path, folder)


def with_manifest(graph: Graph, path: Path, folder: Path) -> Path:
    copy = saved(graph, folder / "scaled.onnx")
    write_manifest(copy, dataclasses.replace(read_manifest(path), file=copy.name))
    return copy


def reach_of(path: Path, tensor: str) -> float:
    graph = read_graph(path)
    node = next(node for node in graph.nodes if node.name == tensor)
    (values,) = run(path, feed_of(path, IMAGES), [node.outputs[0].name])
    return float(np.abs(values).max())


def test_every_tensor_outside_the_island_is_scanned(merged: Path) -> None:
    found = scan(merged, read_manifest(merged), IMAGES.pixels)
    reaches = {reach.node: reach.largest for reach in found}

    assert [r.largest for r in found] == sorted(reaches.values(), reverse=True)
    for name in ("blocks/0/Add", "blocks/0/attn/qkv/MatMul", RESIDUAL, "head/Gemm", "patches/Conv"):
        assert reaches[name] == pytest.approx(reach_of(merged, name), rel=1e-4)
    inside = {name for name in reaches if name.startswith(f"blocks/{MERGE_BLOCK}/merge/")}
    assert inside == {f"blocks/{MERGE_BLOCK}/merge/{name}" for name in ("MatMul_4", "Div_2")}
    assert "graph/Log" not in reaches


def test_progress_counts_the_images(merged: Path) -> None:
    counts: list[int] = []

    scan(merged, read_manifest(merged), IMAGES.pixels, progress=counts.append)

    assert sum(counts) == len(IMAGES)


def test_a_residual_beyond_float16_is_refused_and_named(merged: Path, tmp_path: Path) -> None:
    before = reach_of(merged, RESIDUAL)
    path = scaled(merged, tmp_path, 2 * LARGEST_FLOAT16 / before)
    found = scan(path, read_manifest(path), IMAGES.pixels)

    with pytest.raises(ExportError, match="float16 ends at 65504") as caught:
        judge(found, images="6 images")

    beyond = {reach.node for reach in found if reach.largest > LARGEST_FLOAT16}
    assert RESIDUAL in beyond
    assert beyond <= {
        "blocks/1/fc2/MatMul", "blocks/1/fc2/Add", RESIDUAL, "blocks/2/Add", "blocks/2/Add_2",
        "graph/Slice",
    }  # fmt: skip
    assert caught.value.where in beyond
    assert f"({len(beyond)} tensors beyond it)" in caught.value.what
    assert "--precision bf16" in caught.value.fix


def test_near_the_end_there_is_a_warning(merged: Path, tmp_path: Path) -> None:
    before = reach_of(merged, RESIDUAL)
    path = scaled(merged, tmp_path, 0.8 * LARGEST_FLOAT16 / before)

    warning = judge(scan(path, read_manifest(path), IMAGES.pixels), images="6 images")

    assert warning is not None
    assert "of 65504" in warning
    assert warning.startswith(("blocks/1/", "blocks/2/"))


def test_an_ordinary_network_is_fine(merged: Path) -> None:
    assert judge(scan(merged, read_manifest(merged), IMAGES.pixels), images="6 images") is None


@pytest.mark.parametrize(
    ("largest", "verdict"),
    [(0.0, "fine"), (32752.0, "fine"), (32753.0, "warning"), (65504.0, "warning"),
     (65505.0, "refused"), (np.inf, "refused"), (np.nan, "refused")],
)  # fmt: skip
def test_the_borders_of_the_judgement(largest: float, verdict: str) -> None:
    reaches = [Reach("worst", largest), Reach("other", 1.0)]

    if verdict == "refused":
        with pytest.raises(ExportError, match=r"worst .*\(1 tensors"):
            judge(reaches, images="8 images")
    else:
        assert (judge(reaches, images="8 images") is None) == (verdict == "fine")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_a_number_comes_first(value: float, merged: Path, tmp_path: Path) -> None:
    graph = read_graph(merged)
    for node in graph.nodes:
        if node.name == "blocks/2/fc2/Add":
            bias = next(t for t in node.inputs if t.name.startswith("blocks.2.fc2"))
            bias.values = bias.values.copy()
            bias.values[0] = value
    path = with_manifest(graph, merged, tmp_path)

    found = scan(path, read_manifest(path), IMAGES.pixels)

    assert not np.isfinite(found[0].largest)
    with pytest.raises(ExportError):
        judge(found, images="6 images")


def test_the_scan_leaves_nothing_behind(
    merged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    overflow.scan(merged, read_manifest(merged), IMAGES.pixels[:1])

    assert list(tmp_path.iterdir()) == []
