"""What rounding explains of a typed graph's errors, and what it does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from calibration.casts import cast_graph
from calibration.evaluator import GraphEvaluator, evaluator_for
from engines.imaging.source import read_set
from engines.manifest import Manifest, read_manifest
from engines.onnx_graph.files import Graph, read_graph
from engines.parity.rows import StageParity
from fpet_export.stages import load

DIGITS = Path(__file__).parents[2] / "examples" / "digits"
IMAGES = 8


@pytest.fixture(scope="module")
def onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    run = load(DIGITS / "runs" / "lora", backbone=DIGITS / "backbone.safetensors")
    return run.fold().freeze(batch=8, target="cpu").to_onnx(folder)


@pytest.fixture(scope="module")
def manifest(onnx: Path) -> Manifest:
    return read_manifest(onnx)


@pytest.fixture(scope="module")
def evaluator(onnx: Path, manifest: Manifest) -> GraphEvaluator:
    assert manifest.preprocessing is not None
    return evaluator_for(
        onnx, manifest, read_set(DIGITS / "test.npz", manifest.preprocessing, limit=IMAGES)
    )


def judged(
    onnx: Path, manifest: Manifest, evaluator: GraphEvaluator, change: Callable[[Graph], None]
) -> StageParity:
    """Judge the FP16 graph after a change of the float32 one."""
    graph = read_graph(onnx)
    change(graph)
    cast_graph(graph, "fp16", io="fp32")
    return evaluator.row("fp16", evaluator.outputs(graph, manifest), "fp16")


def scale_constant(graph: Graph, name: str, factor: float) -> None:
    node = next(node for node in graph.nodes if node.name == name)
    constant = next(tensor for tensor in node.inputs if isinstance(tensor, gs.Constant))
    constant.values = np.asarray(constant.values * np.float32(factor))


def wrong_scale(graph: Graph) -> None:
    scale_constant(graph, "blocks/9/fc2/MatMul", 1.1)


def lost_bias(graph: Graph) -> None:
    scale_constant(graph, "blocks/9/fc1/Add", 0.0)


def wrong_normalisation(graph: Graph) -> None:
    scale_constant(graph, "blocks/9/norm2/LayerNormalization", 1.1)


def clipped_activation(graph: Graph) -> None:
    node = next(node for node in graph.nodes if node.name == "blocks/9/Gelu")
    (tensor,) = node.outputs
    limit = gs.Constant("limit", np.array(1.0, np.float32))
    clipped = gs.Variable("clipped", dtype=tensor.dtype, shape=tensor.shape)
    for reader in list(tensor.outputs):
        reader.inputs = [clipped if found is tensor else found for found in reader.inputs]
    graph.layer(name="blocks/9/Min", op="Min", inputs=[tensor, limit], outputs=[clipped])
    graph.toposort()


def test_a_correct_graph_stays_within_what_rounding_explains(
    onnx: Path, manifest: Manifest, evaluator: GraphEvaluator
) -> None:
    row = judged(onnx, manifest, evaluator, lambda graph: None)

    assert row.failures == () and row.warnings == ()
    assert row.rounding is not None and 2e-4 < row.rounding < 4e-3


@pytest.mark.parametrize(
    "change", [wrong_scale, lost_bias, clipped_activation, wrong_normalisation]
)
def test_what_is_wrong_fails_even_where_no_class_changes(
    onnx: Path, manifest: Manifest, evaluator: GraphEvaluator, change: Callable[[Graph], None]
) -> None:
    row = judged(onnx, manifest, evaluator, change)

    assert row.agreement == 1.0
    assert any("rounding explains" in failure for failure in row.failures), row


def test_bfloat16_is_allowed_eight_times_as_much(evaluator: GraphEvaluator) -> None:
    half, brain = evaluator.rounding("fp16"), evaluator.rounding("bf16")

    assert half is not None and brain is not None
    assert 4 < brain / half < 16
    assert evaluator.rounding("int8") is None
