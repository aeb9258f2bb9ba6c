"""The graph that ONNX Runtime's CUDA provider gets: its operators, and the same logits."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator
from torch import nn

from engines.backends._ort.operators import use_contrib_operators, with_contrib_operators
from fpet_export.graph import to_onnx
from fpet_export.graph.freeze import FrozenVit
from fpet_export.graph.options import FreezeOptions
from fpet_export.model.fold import fold
from fpet_export.steps import naive_export
from tests.fpet_export.graph.contrib_operators import evaluate
from tests.fpet_export.graph.test_to_onnx import fresh
from tests.fpet_export.tiny import MEAN, STD, adapted, checkpoint_of, spec_of

TOLERANCE = 2e-6


def graph_of(folder: Path, method: str = "lora", **request: Any) -> Any:
    return onnx.load(fresh(folder, method, **request).path)


def replaced(model: Any) -> Any:
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    return changed, use_contrib_operators(changed)


def agree(model: Any, changed: Any, batch: int = 2) -> None:
    shape = [d.dim_value or batch for d in model.graph.input[0].type.tensor_type.shape.dim]
    images = np.random.default_rng(0).random(shape, dtype=np.float32)
    feeds = {to_onnx.INPUT: images}
    outputs: Any = ReferenceEvaluator(model).run(None, feeds)
    wanted = outputs[0]
    found = evaluate(changed, feeds)
    names = [node.name for node in changed.graph.node]
    assert len(names) == len(set(names))  # ONNX Runtime's CUDA provider refuses two of one name
    assert np.abs(found - wanted).max() <= TOLERANCE * np.abs(wanted).max()


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("lora", {}),
        ("adaptformer", {"batch": (1, 4), "attention_scale": "split"}),
        ("lora", {"batch": 2, "last_block": "all-tokens"}),
        ("lora", {"run": {"merge_block": None}}),
        ("lora", {"shape": {"prefix": ("cls", "dist"), "pool": "class+dist"}}),
        ("lora", {"shape": {"prefix": (), "pool": "mean", "heads": 1, "qkv_bias": False}}),
    ],
    ids=str,
)
def test_the_logits_stay(tmp_path: Path, method: str, options: dict[str, Any]) -> None:
    model = graph_of(tmp_path, method, **options)
    depth = sum(node.op_type == "Softmax" for node in model.graph.node)
    changed, counts = replaced(model)
    assert (counts.attentions, counts.attentions_left) == (depth, 0)
    assert counts.bias_gelus == depth
    # Not the first, that after the merge, or one that reads a part of the tokens.
    merges = any("merge" in node.name for node in model.graph.node)
    cut = options.get("last_block") == "all-tokens"
    assert counts.skip_norms == 2 * depth - merges - cut
    assert (counts.patch_products, counts.unit_lengths) == (1, int(merges))
    agree(model, changed)


@pytest.mark.parametrize("last_block", ["class-token", "all-tokens"])
def test_updates_beside_the_projection_leave_it_three_tensors(
    tmp_path: Path, last_block: Any
) -> None:
    spec = spec_of()
    model = adapted(spec, checkpoint_of(spec, "lora"))
    options = FreezeOptions(updates="low-rank", last_block=last_block)
    to_onnx.to_onnx(FrozenVit(model, options, MEAN, STD).eval(), tmp_path / "model.onnx", opset=20)
    original = onnx.load(tmp_path / "model.onnx")
    changed, counts = replaced(original)
    assert (counts.attentions, counts.attentions_left) == (spec.depth, 0)
    agree(original, changed)


@pytest.mark.parametrize("batch", [2, (1, 4)])
def test_the_exporters_own_attention_is_known_too(
    batch: int | tuple[int, int], tmp_path: Path
) -> None:
    """The plain network that a merged one is measured against comes from it.

    With a convolution left in it, as its class token is no constant, it would be no fair baseline.
    """
    spec = spec_of()
    model = fold(adapted(spec, checkpoint_of(spec, "lora")))[0]
    model.merges = nn.ModuleDict()
    path = naive_export.naive_export(model, tmp_path / "plain.onnx", batch=batch)
    original, folder = onnx.load(path), tmp_path / "new"
    folder.mkdir()
    written, replacements = with_contrib_operators(path, folder)
    assert (replacements.attentions, replacements.attentions_left) == (spec.depth, 0)
    assert replacements.patch_products == 1
    agree(original, onnx.load(written))


def test_an_attention_of_another_form_stays(tmp_path: Path) -> None:
    model = graph_of(tmp_path)
    softmax = next(node for node in model.graph.node if node.op_type == "Softmax")
    doubled = onnx.helper.make_node("Add", [softmax.output[0]] * 2, ["doubled"], name="doubled")
    mixing = next(node for node in model.graph.node if softmax.output[0] in node.input)
    mixing.input[0] = "doubled"
    model.graph.node.insert([*model.graph.node].index(mixing), doubled)
    changed, counts = replaced(model)
    assert counts.attentions_left == 1
    assert counts.facts()["fused_attentions"] == f"{counts.attentions} of {counts.attentions + 1}"
    agree(model, changed)


def test_nothing_of_the_old_operators_is_left(tmp_path: Path) -> None:
    changed, _ = replaced(graph_of(tmp_path))
    kinds = Counter(node.op_type for node in changed.graph.node)
    assert kinds["Softmax"] == kinds["Gelu"] == kinds["Conv"] == kinds["Sqrt"] == 0
    assert kinds["LayerNormalization"] == 2
    read = {name for node in changed.graph.node for name in node.input}
    assert {tensor.name for tensor in changed.graph.initializer} <= read
