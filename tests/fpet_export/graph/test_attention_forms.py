"""The two forms of the frozen module's attention: one value, and a mask that one kernel reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from benchmarks.experiments import subjects
from engines.errors import UsageError
from fpet_export.graph import to_onnx
from fpet_export.graph.freeze import FrozenVit, typed
from fpet_export.graph.frozen_attention import ALIGNED, aligned
from fpet_export.graph.options import FreezeOptions
from fpet_export.model.fold import fold
from tests.fpet_export.tiny import (
    MEAN,
    STD,
    adapted,
    checkpoint_of,
    images_of,
    relative,
    spec_of,
)

RUNS: dict[str, dict[str, Any]] = {
    "merged": {"method": "lora"},
    "merged, branches that stay": {"method": "adaptformer"},
    "merged in the last block": {"method": "lora", "merge_block": 2},
    "all tokens": {"method": "lora", "merge_block": None},
}
SHAPES: dict[str, dict[str, Any]] = {
    "class token": {},
    "mean pool": {"prefix": (), "pool": "mean"},
    "distillation token": {"prefix": ("cls", "dist"), "pool": "class+dist"},
    "layer scale, no qkv bias": {"layer_scale": True, "qkv_bias": False},
    "one head": {"heads": 1},
}
FORMS = [
    {"attention_scale": scale, "last_block": last}
    for scale in ("split", "folded")
    for last in ("class-token", "all-tokens")
]


def frozen(run: dict[str, Any], shape: dict[str, Any] | None = None, **options: Any) -> FrozenVit:
    spec = spec_of(**(shape or {}))
    model = adapted(spec, checkpoint_of(spec, **run))
    if options.get("updates") != "low-rank":
        model, _ = fold(model)
    module = FrozenVit(model, FreezeOptions(**options), MEAN, STD).eval()
    return module.requires_grad_(False)


def answers(module: FrozenVit, dtype: torch.dtype) -> dict[str, np.ndarray]:
    images = torch.from_numpy(images_of(module.spec, 2))
    module = module.double() if dtype == torch.float64 else typed(module, dtype)
    with torch.inference_mode():
        found = module.trace(images)
    return {name: tensor.double().numpy() for name, tensor in found.items()}


def assert_same(run: dict[str, Any], shape: dict[str, Any], **options: Any) -> None:
    for dtype, bound in ((torch.float64, 1e-13), (torch.float32, 2e-6)):
        primitive = answers(frozen(run, shape, **options), dtype)
        fused = answers(frozen(run, shape, attention="fused", **options), dtype)
        assert relative(fused["logits"], primitive["logits"]) < bound
        assert fused.keys() == primitive.keys()
        for name in fused.keys() - {"logits"}:
            np.testing.assert_array_equal(fused[name], primitive[name])


@pytest.mark.parametrize("options", FORMS, ids=str)
@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_both_forms_give_the_same(run: dict[str, Any], options: dict[str, Any]) -> None:
    assert_same(run, {}, **options)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_both_forms_give_the_same_in_every_network(shape: dict[str, Any]) -> None:
    assert_same(RUNS["merged"], shape)


@pytest.mark.parametrize("options", FORMS, ids=str)
@pytest.mark.parametrize("merge_block", [1, None])
def test_both_forms_give_the_same_with_low_rank_updates(
    merge_block: int | None, options: dict[str, Any]
) -> None:
    run = {"method": "lora", "merge_block": merge_block}

    assert_same(run, {}, updates="low-rank", **options)


def test_both_forms_give_the_same_up_to_rounding_in_half_precision() -> None:
    primitive = answers(frozen(RUNS["merged"]), torch.float64)
    for attention in ("primitive", "fused"):
        found = answers(frozen(RUNS["merged"], attention=attention), torch.float16)
        assert relative(found["logits"], primitive["logits"]) < 5e-3
        np.testing.assert_array_equal(found["match"], primitive["match"])


def test_the_bias_matters_so_that_losing_it_would_be_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    right = answers(frozen(RUNS["merged"], attention="fused"), torch.float64)

    monkeypatch.setattr("fpet_export.graph.freeze.aligned", torch.zeros_like)
    wrong = answers(frozen(RUNS["merged"], attention="fused"), torch.float64)

    assert relative(wrong["logits"], right["logits"]) > 1e-3


class Attentions(TorchFunctionMode):
    """Collects the mask of every attention operator, None where it has none."""

    def __init__(self) -> None:
        super().__init__()
        self.masks: list[torch.Tensor | None] = []
        self.softmaxes = 0

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        self.softmaxes += "softmax" in str(func)
        if func is F.scaled_dot_product_attention:
            self.masks.append(kwargs["attn_mask"])
        return func(*args, **kwargs)


@pytest.mark.parametrize("attention", ["fused", "primitive"])
def test_one_operator_attends_in_every_block(attention: Any) -> None:
    module = typed(frozen(RUNS["merged"], attention=attention), torch.float32)

    with torch.inference_mode(), Attentions() as seen:
        module(torch.from_numpy(images_of(module.spec, 2)))

    if attention == "primitive":
        assert (seen.masks, seen.softmaxes) == ([], module.spec.depth)
        return
    before, merging, behind = seen.masks
    assert (before, merging, seen.softmaxes) == (None, None, 0)
    assert behind is not None
    assert all(stride % ALIGNED == 0 for stride in behind.stride()[:-1])
    assert behind.stride(-1) == 1


@pytest.mark.parametrize("tokens", [1, 7, 8, 99, 104, 129])
def test_the_rows_of_a_mask_are_aligned_and_keep_their_values(tokens: int) -> None:
    bias = torch.arange(3 * tokens, dtype=torch.float16).reshape(3, 1, 1, tokens)

    found = aligned(bias)

    torch.testing.assert_close(found, bias, rtol=0, atol=0)
    assert all(stride % ALIGNED == 0 for stride in found.stride()[:-1])
    assert found.stride(-1) == 1


def test_a_graph_is_not_written_from_the_fused_form(tmp_path: Path) -> None:
    module = frozen(RUNS["merged"], attention="fused")

    with pytest.raises(UsageError, match="frozen with fused attention"):
        to_onnx.to_onnx(module, tmp_path / "model.onnx", opset=20)

    assert not any(tmp_path.iterdir())


def test_what_benchmarks_run_in_torch_is_fused_and_what_they_export_is_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = []

    class Stub:
        module = None

        def to_onnx(self, path: Path) -> None: ...

    def freeze(**options: Any) -> Stub:
        asked.append(options["attention"])
        return Stub()

    monkeypatch.setattr(subjects, "freeze", freeze)
    subject = subjects.exported("frozen", merge_block=6)
    subject.module(1, "float32")
    assert subject.onnx is not None
    subject.onnx(1, "cpu", "float32", tmp_path)

    assert asked == ["fused", "primitive"]
