"""Reading, writing and naming of graphs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from engines.errors import ExportError, InputError
from engines.onnx_graph import files
from engines.onnx_graph.files import Names, block_of, module_path, read_graph, write_graph
from tests.calibration.exports import feed_of, images_of, run


def test_a_graph_comes_back_as_it_was_read(merged: Path, tmp_path: Path) -> None:
    images = feed_of(merged, images_of(2))
    write_graph(read_graph(merged), tmp_path / "copy.onnx")

    assert np.array_equal(run(tmp_path / "copy.onnx", images)[0], run(merged, images)[0])
    assert [path.name for path in tmp_path.iterdir()] == ["copy.onnx"]


def test_half_a_graph_is_refused(merged: Path, tmp_path: Path) -> None:
    (tmp_path / "half.onnx").write_bytes(merged.read_bytes()[:20_000])

    with pytest.raises(InputError):
        read_graph(tmp_path / "half.onnx")


def test_what_is_not_valid_is_not_left_behind(merged: Path, tmp_path: Path) -> None:
    graph = read_graph(merged)
    next(node for node in graph.nodes if node.op == "Softmax").op = "Softmix"

    with pytest.raises(ExportError, match="not valid ONNX"):
        write_graph(graph, tmp_path / "broken.onnx")

    assert list(tmp_path.iterdir()) == []


def test_too_many_weights_lie_beside_the_graph(
    merged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = feed_of(merged, images_of(2))
    monkeypatch.setattr(files, "LARGEST_BYTES", 100_000)

    write_graph(read_graph(merged), tmp_path / "large.onnx")

    assert {path.name for path in tmp_path.iterdir()} == {"large.onnx", "large.onnx.data"}
    assert (tmp_path / "large.onnx").stat().st_size < 100_000
    found = gs.export_onnx(read_graph(tmp_path / "large.onnx"))
    assert np.array_equal(run(found, images)[0], run(merged, images)[0])


def test_names_are_handed_out_once(merged: Path) -> None:
    graph = read_graph(merged)
    names = Names(graph)

    assert names.new("fresh") == "fresh"
    assert names.new("fresh") == "fresh_2"
    assert names.new("fresh") == "fresh_3"
    assert names.new("images") == "images_2"  # a tensor's
    assert names.new("head/Gemm") == "head/Gemm_2"  # a node's


def test_a_node_belongs_to_a_module_and_a_block() -> None:
    node = gs.Node("MatMul", name="blocks/11/attn/qkv/MatMul")

    assert module_path(node) == "blocks/11/attn/qkv"
    assert block_of(module_path(node)) == 11
    assert [block_of(name) for name in ("head/Gemm", "blocks", "graph/Add")] == [None] * 3


def test_the_model_is_one_that_onnx_reads(merged: Path, tmp_path: Path) -> None:
    write_graph(read_graph(merged), tmp_path / "copy.onnx")
    first, second = (onnx.load(str(path)) for path in (merged, tmp_path / "copy.onnx"))

    assert (first.ir_version, first.opset_import) == (second.ir_version, second.opset_import)
