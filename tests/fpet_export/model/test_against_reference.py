"""The adapted, the folded and the frozen model against an independent float64 reference."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np
import pytest
import torch

from fpet_export.graph.freeze import FrozenVit, typed
from fpet_export.graph.options import FreezeOptions
from fpet_export.model import reference
from fpet_export.model.checkpoints import Checkpoint
from fpet_export.model.fold import fold
from fpet_export.model.vit import Vit
from fpet_export.model.vit_spec import VitSpec
from tests.fpet_export.tiny import (
    MEAN,
    STD,
    adapted,
    checkpoint_of,
    images_of,
    reference_network,
    relative,
    spec_of,
)
from tests.references.fpet_reference import Answer, Network, classify

SHAPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "no class token, mean pool": {"prefix": (), "pool": "mean"},
    "class token, mean pool, fc_norm": {"pool": "mean", "pool_norm": True},
    "class token beside the mean, registers": {
        "prefix": ("cls", "reg"),
        "position_covers_prefix": False,
        "pool": "class+mean",
        "layer_scale": True,
    },
    "mean pool without a norm": {"pool": "mean", "pre_norm": True, "final_norm": False},
    "distillation token": {"prefix": ("cls", "dist"), "pool": "class+dist"},
    "registers, positions on patches only": {
        "prefix": ("cls", "reg", "reg"),
        "position_covers_prefix": False,
    },
    "layer scale": {"layer_scale": True},
    "pre-norm, no patch bias, quick gelu": {
        "pre_norm": True,
        "patch_bias": False,
        "activation": "quick_gelu",
        "norm_eps": 1e-5,
    },
    "no qkv bias": {"qkv_bias": False},
    "odd grid": {"image": (20, 20)},
    "non-square grid": {"image": (8, 20)},
    "non-square odd grid": {"image": (12, 20)},
    "one row of patches": {"image": (4, 16)},
    "patches that are not square": {"image": (16, 18), "patch": (4, 6)},
    "one head": {"heads": 1},
}
RUNS: dict[str, dict[str, Any]] = {
    "lora": {"method": "lora"},
    "adaptformer": {"method": "adaptformer"},
    "lora 1 bit": {"method": "lora", "bit": 1, "dim": 16},
    "adaptformer 4 bit": {"method": "adaptformer", "bit": 4, "scale": 10.0},
    "lora without FPET": {"method": "lora", "merge_block": None},
    "no method": {"method": "none"},
    "no refinement": {"method": "adaptformer", "refined": False},
    "merge in block 0": {"method": "adaptformer", "merge_block": 0},
    "merge in the last block": {"method": "lora", "merge_block": 2},
    "merge in the last block, adaptformer": {"method": "adaptformer", "merge_block": 2},
}
CASES = [
    *[pytest.param(shape, RUNS["lora"], id=name) for name, shape in SHAPES.items()],
    *[pytest.param({}, run, id=name) for name, run in RUNS.items()],
    pytest.param(
        SHAPES["no class token, mean pool"],
        RUNS["merge in the last block, adaptformer"],
        id="mean pool, merge in the last block",
    ),
    pytest.param(
        SHAPES["distillation token"],
        RUNS["merge in the last block"],
        id="distillation token, merge in the last block",
    ),
    pytest.param(
        SHAPES["layer scale"], RUNS["adaptformer"], id="layer scale does not touch the adapter"
    ),
]


@functools.cache
def expected_logits(pool: str, merge_block: int) -> tuple[VitSpec, Checkpoint, np.ndarray]:
    """The reference of one network, computed once for all options of the freeze."""
    prefix = ("cls", "dist") if pool == "class+dist" else ("cls",)
    spec = spec_of(pool=pool, prefix=prefix)
    checkpoint = checkpoint_of(spec, "adaptformer", merge_block=merge_block)
    network = reference_network(spec, checkpoint)
    return spec, checkpoint, logits_of(answers(network, images_of(spec, 1)))


def answers(network: Network, images: np.ndarray) -> list[Answer]:
    shift = np.array(MEAN)[:, None, None]
    scale = np.array(STD)[:, None, None]
    return [classify(network, (image.astype(np.float64) - shift) / scale) for image in images]


def logits_of(found: list[Answer]) -> np.ndarray:
    return np.stack([answer.logits for answer in found])


def frozen_logits(
    model: Vit, method: str, images: np.ndarray, dtype: torch.dtype, **options: Any
) -> dict[str, np.ndarray]:
    folded, _ = fold(model)
    module = FrozenVit(folded, FreezeOptions(**options), MEAN, STD).eval()
    module = typed(module, dtype) if dtype != torch.float64 else module.double()
    with torch.inference_mode():
        found = module.trace(torch.from_numpy(images))
    return {name: tensor.numpy() for name, tensor in found.items()}


@pytest.mark.parametrize(("shape", "run"), CASES)
def test_every_stage_agrees_with_the_equations(shape: dict[str, Any], run: dict[str, Any]) -> None:
    spec = spec_of(**shape)
    checkpoint = checkpoint_of(spec, **run)
    images = images_of(spec, 1)
    expected = answers(reference_network(spec, checkpoint), images)
    logits = logits_of(expected)
    model = adapted(spec, checkpoint)

    evidence = reference.run(model, images, MEAN, STD)
    folded, stays = fold(model)
    after_fold = reference.run(folded, images, MEAN, STD)
    frozen = frozen_logits(model, checkpoint.method, images, torch.float32)

    assert relative(evidence.logits, logits) < 1e-10
    assert relative(after_fold.logits, logits) < 1e-6  # folded weights are rounded to float32
    assert relative(frozen["logits"], logits) < 1e-5
    assert bool(stays) == (checkpoint.method == "adaptformer")
    if checkpoint.merge_block is not None:
        match = np.array([answer.match for answer in expected])
        assert (match >= 0).all()
        assert evidence.match is not None
        assert evidence.margin is not None
        assert evidence.size is not None
        np.testing.assert_array_equal(evidence.match, match)
        np.testing.assert_array_equal(frozen["match"], match)
        np.testing.assert_array_equal(frozen["size"], [answer.size for answer in expected])
        np.testing.assert_array_equal(evidence.size, [answer.size for answer in expected])
        np.testing.assert_allclose(
            evidence.margin, [answer.margin for answer in expected], atol=1e-12
        )
        assert (evidence.size.sum(axis=1) == spec.tokens).all()


def lora_case() -> tuple[VitSpec, Checkpoint, np.ndarray]:
    spec = spec_of()
    return spec, checkpoint_of(spec, "lora"), images_of(spec, 1)


@pytest.mark.parametrize(
    "options",
    [
        {"attention_scale": "folded"},
        {"last_block": "all-tokens"},
        {"attention_scale": "folded", "last_block": "all-tokens"},
        {"ties": "reference"},
    ],
    ids=str,
)
@pytest.mark.parametrize("merge_block", [0, 2])
@pytest.mark.parametrize("pool", ["class", "mean", "class+mean", "class+dist"])
def test_every_option_of_the_freeze_gives_the_same_answers(
    options: dict[str, Any], merge_block: int, pool: str
) -> None:
    spec, checkpoint, logits = expected_logits(pool, merge_block)
    images = images_of(spec, 1)

    found = frozen_logits(
        adapted(spec, checkpoint), "adaptformer", images, torch.float32, **options
    )

    assert relative(found["logits"], logits) < 1e-5


def test_a_frozen_module_in_float64_is_as_exact_as_the_folded_weights_allow() -> None:
    spec, checkpoint, images = lora_case()
    logits = logits_of(answers(reference_network(spec, checkpoint), images))

    found = frozen_logits(adapted(spec, checkpoint), "lora", images, torch.float64)

    assert relative(found["logits"], logits) < 1e-6


@pytest.mark.parametrize("layout", ["uint8-nchw", "uint8-nhwc"])
def test_raw_pixels_give_the_same_answers(layout: str) -> None:
    spec, checkpoint, images = lora_case()
    logits = logits_of(answers(reference_network(spec, checkpoint), images))
    raw = np.rint(images * 255).astype(np.uint8)
    raw = raw.transpose(0, 2, 3, 1) if layout == "uint8-nhwc" else raw

    found = frozen_logits(
        adapted(spec, checkpoint), "lora", np.ascontiguousarray(raw), torch.float32, input=layout
    )

    assert relative(found["logits"], logits) < 1e-5


# -- negative controls: what the tests above would notice -------------------------------------


def difference(changed: Network, base: Network, images: np.ndarray) -> float:
    return relative(logits_of(answers(changed, images)), logits_of(answers(base, images)))


@pytest.mark.parametrize(
    "change",
    [
        {"merge_block": None},
        {"merge_block": 0},
        {"merge_block": 2},
        {"proportional": False},
        {"refinement": None},
        {"scale": 0.0},
    ],
    ids=str,
)
def test_a_wrong_setting_changes_the_logits_far_beyond_the_tolerance(
    change: dict[str, Any],
) -> None:
    spec, checkpoint, _ = lora_case()
    images = images_of(spec, 3)  # one image alone may match the same without the refinement
    network = reference_network(spec, checkpoint)

    assert difference(dataclasses.replace(network, **change), network, images) > 1e-3


def test_switching_the_merger_off_changes_our_logits() -> None:
    spec, checkpoint, images = lora_case()
    model = adapted(spec, checkpoint)
    merged = reference.run(model, images, MEAN, STD).logits

    model.merges = torch.nn.ModuleDict()

    assert relative(reference.run(model, images, MEAN, STD).logits, merged) > 1e-3


@pytest.mark.parametrize("other", [0, 2])
def test_merging_after_another_block_changes_our_logits(other: int) -> None:
    spec, checkpoint, images = lora_case()
    right = reference.run(adapted(spec, checkpoint), images, MEAN, STD).logits
    wrong = dataclasses.replace(checkpoint, merge=f"fpet@{other}")

    found = reference.run(adapted(spec, wrong), images, MEAN, STD).logits

    assert relative(found, right) > 1e-3


def test_the_adapter_reads_the_merged_residual() -> None:
    spec = spec_of()
    checkpoint = checkpoint_of(spec, "adaptformer")
    images = images_of(spec)
    with_adapter = reference_network(spec, checkpoint)
    without = dataclasses.replace(with_adapter, scale=0.0)

    assert difference(without, with_adapter, images) > 1e-2


def test_permuting_images_permutes_the_answers() -> None:
    spec, checkpoint, _ = lora_case()
    images = images_of(spec, count=4)
    model = adapted(spec, checkpoint)
    order = np.array([2, 0, 3, 1])

    straight = frozen_logits(model, "lora", images, torch.float32)
    permuted = frozen_logits(model, "lora", images[order], torch.float32)

    assert relative(permuted["logits"], straight["logits"][order]) < 1e-6
    np.testing.assert_array_equal(permuted["match"], straight["match"][order])


def test_the_reference_pass_leaves_the_float32_weights_alone() -> None:
    spec, checkpoint, images = lora_case()
    model = adapted(spec, checkpoint)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    reference.run(model, images, MEAN, STD)

    for name, tensor in model.state_dict().items():
        assert tensor.dtype == torch.float32
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)


def test_a_float32_reference_run_is_close_but_not_float64() -> None:
    spec, checkpoint, images = lora_case()
    model = adapted(spec, checkpoint)

    wide = reference.run(model, images, MEAN, STD)
    narrow = reference.run(model, images, MEAN, STD, dtype=torch.float32)

    assert 1e-9 < relative(narrow.logits, wide.logits) < 1e-5


def test_progress_is_reported_once_an_image() -> None:
    spec, checkpoint, images = lora_case()
    calls: list[int] = []

    reference.run(adapted(spec, checkpoint), images, MEAN, STD, progress=calls.append)

    assert calls == [1] * len(images)
