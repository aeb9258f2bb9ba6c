"""A graph whose alike blocks were traced once is, byte for byte, the one of a whole trace."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from engines.errors import ExportError
from fpet_export.graph import repeated_blocks, to_onnx
from fpet_export.graph.freeze import FrozenVit
from fpet_export.graph.options import FreezeOptions
from fpet_export.graph.repeated_blocks import traced_blocks
from fpet_export.model.adapt import adapt
from fpet_export.model.edits import Branch
from fpet_export.model.fold import fold
from tests.contracts.test_matrix import METHODS, bottleneck
from tests.fpet_export.model.backbones import test_rotary
from tests.fpet_export.model.backbones.eva_models import model_of
from tests.fpet_export.tiny import MEAN, STD, backbone_of, checkpoint_of, spec_of


def frozen(
    method: str = "low rank", merge: str = "none", depth: int = 3, **options: Any
) -> FrozenVit:
    spec = spec_of(depth=depth)
    run = dataclasses.replace(
        checkpoint_of(spec, "none", merge_block=None),
        method=method,
        changes=tuple(METHODS[method](spec)),
        merge=merge,
    )
    folded, _ = fold(adapt(backbone_of(spec), run))
    return FrozenVit(folded, FreezeOptions(**options), MEAN, STD).eval()


def every_block(module: FrozenVit) -> tuple[int, ...]:
    return tuple(range(len(module.blocks)))


FAST: list[tuple[str, dict[str, Any], int]] = [
    ("low rank", {"merge": "fpet@2", "depth": 6}, 20),
    ("bottleneck", {"batch": (1, 4), "last_block": "all-tokens"}, 17),
    ("gated keys", {"input": "uint8-nhwc", "attention_scale": "folded"}, 20),
    ("prompts of every block", {"batch": 2}, 23),
]
SLOW: list[tuple[str, dict[str, Any], int]] = [
    *((method, {}, 20) for method in METHODS),
    *((method, {"merge": "fpet@0", "last_block": "all-tokens"}, 20) for method in METHODS),
    ("low rank", {"merge": "fpet@2", "depth": 6, "batch": (1, 4), "ties": "reference"}, 20),
    ("low rank", {"merge": "tome:r=3@1-2", "depth": 6}, 20),
]
CASES = [*FAST, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)]


def graphs(
    module: FrozenVit, opset: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[bytes, bytes]:
    """The graph of a module, and that of a whole trace."""
    repeated, whole = folder / "repeated.onnx", folder / "whole.onnx"
    to_onnx.to_onnx(module, repeated, opset=opset)
    monkeypatch.setattr(repeated_blocks, "traced_blocks", every_block)
    to_onnx.to_onnx(module, whole, opset=opset)
    return repeated.read_bytes(), whole.read_bytes()


@pytest.mark.parametrize(("method", "network", "opset"), CASES)
def test_it_is_the_graph_of_a_whole_trace(
    method: str,
    network: dict[str, Any],
    opset: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if method == "convolution" and "merge" in network:
        pytest.skip("no image is left behind a merge")
    module = frozen(method, **network)
    assert len(set(traced_blocks(module))) < len(module.blocks)

    repeated, whole = graphs(module, opset, tmp_path, monkeypatch)

    assert repeated == whole


def rotary(name: str) -> FrozenVit:
    network = test_rotary.backbone_of(model_of(name, depth=4))
    return test_rotary.frozen_of(test_rotary.vit_of(network))


def test_blocks_that_turn_by_one_table_are_traced_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert traced_blocks(rotary(test_rotary.LEARNED)) == (0, 1, 2, 3)
    module = rotary("eva02_base_patch14_224")
    assert traced_blocks(module) == (3, 3, 3, 3)

    repeated, whole = graphs(module, 20, tmp_path, monkeypatch)

    assert repeated == whole


def test_blocks_before_and_behind_a_merge_are_traced_once_each() -> None:
    assert traced_blocks(frozen(merge="fpet@2", depth=7)) == (1, 1, 2, 5, 5, 5, 6)
    assert traced_blocks(frozen(merge="fpet@2", depth=7, last_block="all-tokens")) == (
        *(1, 1, 2),
        *(6, 6, 6, 6),
    )
    assert traced_blocks(frozen(merge="tome:r=1@1-3", depth=6)) == (0, 1, 2, 3, 4, 5)


def unlike(module: FrozenVit, how: str) -> None:
    block: Any = module.blocks[1]
    if how == "a number":
        block.attn.heads *= 2
    elif how == "a shape":
        block.fc1 = nn.Linear(block.fc1.in_features, 2 * block.fc1.out_features)
    elif how == "a part":
        block.adapters.append(nn.Identity())
    elif how == "another tensor":
        block.attn.note = torch.ones(1)
    elif how == "a function":
        block.act = lambda x: x
    else:
        other: Any = module.blocks[0]
        block.fc1.bias = other.fc1.bias


@pytest.mark.parametrize(
    "how",
    [
        "a number",
        "a shape",
        "a part",
        "another tensor",
        "a function",
        "a shared weight",
    ],
)
def test_a_block_that_differs_in_more_than_weights_is_traced_itself(how: str) -> None:
    module = frozen(depth=4)
    assert traced_blocks(module) == (2, 2, 2, 3)

    unlike(module, how)

    assert traced_blocks(module) == (0, 1, 2, 3)


def test_an_adapter_of_another_width_is_traced_itself() -> None:
    spec = spec_of(depth=4)
    branches = tuple(
        Branch(block=block, name="adapter", module=bottleneck(spec)) for block in (0, 1)
    )
    run = dataclasses.replace(
        checkpoint_of(spec, "none", merge_block=None), method="bottleneck", changes=branches
    )
    folded, _ = fold(adapt(backbone_of(spec), run))

    module = FrozenVit(folded, FreezeOptions(), MEAN, STD).eval()

    assert traced_blocks(module) == (1, 1, 2, 3)


def test_a_block_without_its_tokens_is_refused(tmp_path: Path) -> None:
    module = frozen(depth=4)
    module.tokens = (7,) * 4

    with pytest.raises(ExportError, match=r"block 2 .* reads and leaves \[\] and \[\]"):
        to_onnx.to_onnx(module, tmp_path / "model.onnx", opset=20)

    assert not list(tmp_path.iterdir())
