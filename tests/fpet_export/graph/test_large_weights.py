"""A graph whose weights lie in a second file is like any other; here the limit is a few bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import pytest

import engines
import fpet_export
from engines.contract import BuildOptions
from engines.errors import TrustError
from engines.manifest import read_manifest
from engines.parity.outputs import engine_outputs
from fpet_export.graph import large_weights
from fpet_export.stages import Folded
from fpet_export.steps import naive_export
from tests.fpet_export.command_line import Exported, call, pixels_of
from tests.fpet_export.tiny import relative, without_merging

_FLOAT = onnx_ir.DataType.FLOAT


@pytest.fixture(scope="module")
def folded(exported: Exported) -> Folded:
    return fpet_export.load(exported.run.text, backbone=exported.backbone).fold()


@pytest.fixture(autouse=True)
def limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_weights, "LARGEST_BYTES", 100)


@pytest.fixture
def graph(folded: Folded, tmp_path: Path) -> Path:
    return folded.freeze().to_onnx(tmp_path)


def test_the_weights_lie_beside_the_graph_and_the_manifest_knows_them(graph: Path) -> None:
    weights = graph.with_name("model.onnx.data")

    companion = read_manifest(graph).companions[0]

    assert sorted(path.name for path in graph.parent.iterdir()) == [
        "model.manifest.json",
        "model.onnx",
        "model.onnx.data",
    ]
    assert (companion.file, companion.size_bytes) == (weights.name, weights.stat().st_size)
    tensors = onnx.load(graph, load_external_data=False).graph.initializer
    assert sum(t.data_location == onnx.TensorProto.EXTERNAL for t in tensors) > 20


@pytest.mark.parametrize("target", ["cpu", "openvino"])
def test_engines_of_it_give_the_same_answers(
    target: str, graph: Path, folded: Folded, exported: Exported
) -> None:
    pixels = pixels_of(2)
    expected = folded.outputs(pixels).logits

    artefact = engines.build(graph, target=target)

    with engines.open(artefact) as engine:
        actual = engine_outputs(engine, read_manifest(artefact), pixels).logits
    assert relative(actual, expected) < 1e-5
    assert len(read_manifest(artefact).companions) == 1


def test_tensorrt_builds_from_it(graph: Path) -> None:
    pytest.importorskip("tensorrt_rtx")

    plan = engines.build(graph, target="rtx", options=BuildOptions(any_form=True))

    assert read_manifest(plan).companions == ()
    assert plan.stat().st_size > 10_000


def test_a_changed_weight_is_noticed(graph: Path) -> None:
    weights = graph.with_name("model.onnx.data")
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)

    with pytest.raises(TrustError, match="SHA-256 is") as caught:
        engines.open(graph)

    assert caught.value.where == str(weights)


def test_a_missing_file_of_weights_is_named(graph: Path) -> None:
    graph.with_name("model.onnx.data").unlink()

    with pytest.raises(TrustError, match="No such file"):
        engines.open(graph)


def test_the_command_line_verifies_and_compares_it(exported: Exported, tmp_path: Path) -> None:
    done = call(
        "export", exported.run.text, "--backbone", exported.backbone, "-o", tmp_path, "--json"
    )

    assert done.code == 0, done.err
    graph = tmp_path / "model.onnx"
    manifest = read_manifest(graph)
    assert manifest.total_bytes > 5 * manifest.size_bytes
    assert f"model.onnx {manifest.total_bytes / 1e6:.1f} MB" in done.err
    done = call(
        "compare", exported.run.text, graph, "--backbone", exported.backbone, "-o", tmp_path / "p"
    )
    assert done.code == 0, done.err


def test_the_plain_peer_may_be_as_large(folded: Folded, tmp_path: Path) -> None:
    path = naive_export.naive_export(without_merging(folded), tmp_path / "plain.onnx", batch=1)

    assert [c.file for c in read_manifest(path).companions] == ["plain.onnx.data"]
    with engines.open(path) as engine:
        assert engine.outputs[0].name == "logits"


def test_the_file_holds_what_the_whole_model_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(large_weights, "LARGEST_BYTES", 1000)
    rows = np.arange(6, dtype=np.float32).reshape(2, 3)
    model = _two_products(rows.T, np.ones((2, 2), np.float32))
    expected = onnx_ir.to_proto(model)

    proto, weights = large_weights.split(model, smallest=5)
    large_weights.save(proto, tmp_path / "model.onnx", weights)

    assert [tensor.name for tensor in proto.graph.initializer if tensor.external_data] == ["turned"]
    assert onnx.load(tmp_path / "model.onnx") == expected
    assert onnx_ir.to_proto(model) == expected, "the model was changed"


def _two_products(turned: np.ndarray, small: np.ndarray) -> onnx_ir.Model:
    """Return x @ turned @ small; `turned` stays the view of another array that it is."""
    x = onnx_ir.Value(name="x", shape=onnx_ir.Shape((1, 3)), type=onnx_ir.TensorType(_FLOAT))
    first, second = (
        onnx_ir.Value(name=name, const_value=onnx_ir.Tensor(value, name=name))
        for name, value in (("turned", turned), ("small", small))
    )
    nodes = [onnx_ir.node("MatMul", [x, first])]
    nodes.append(onnx_ir.node("MatMul", [nodes[0].outputs[0], second]))
    return onnx_ir.Model(
        onnx_ir.Graph(
            [x],
            nodes[1].outputs,
            nodes=nodes,
            initializers=[first, second],
            opset_imports={"": 20},
            name="products",
        ),
        ir_version=9,
    )
