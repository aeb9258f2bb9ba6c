"""Presets and what is kept out of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from calibration.policy import PRESETS, Policy, choose
from engines.errors import UsageError
from engines.onnx_graph.files import read_graph
from tests.calibration.test_roles import ATTENTIONS, EVERY


def test_the_presets_are_the_linears_and_the_attentions_too(merged: Path) -> None:
    graph = read_graph(merged)

    assert set(PRESETS) == {"vit-linear", "vit-attention"}
    assert choose(graph, "vit-linear").active == tuple(EVERY)
    assert choose(graph, "vit-attention").active == (*EVERY, *ATTENTIONS)


@pytest.mark.parametrize(
    ("keep", "kept"),
    [
        (["blocks/0/fc2"], ["blocks/0/fc2"]),
        (["blocks/0/attn/qkv"], ["blocks/0/attn/qkv"]),
        (["blocks/1"], [name for name in [*EVERY, *ATTENTIONS] if name.startswith("blocks/1/")]),
        (["blocks/2/attn"], ["blocks/2/attn/qkv", "blocks/2/attn/proj", "blocks/2/attn"]),
        (["blocks/0/fc1", "blocks/0/fc1"], ["blocks/0/fc1"]),
        (["blocks/0/fc1", "blocks/0"], [n for n in [*EVERY, *ATTENTIONS] if n[7] == "0"]),
    ],
)
def test_keep_takes_layers_and_blocks(keep: list[str], kept: list[str], merged: Path) -> None:
    policy = choose(read_graph(merged), "vit-attention", keep=keep)

    assert sorted(policy.kept) == sorted(kept)
    assert policy.active == tuple(n for n in (*EVERY, *ATTENTIONS) if n not in kept)


def test_block_1_is_not_block_11(merged: Path) -> None:
    graph = read_graph(merged)
    for node in graph.nodes:
        node.name = node.name.replace("blocks/2/", "blocks/11/")

    policy = choose(graph, "vit-linear", keep=["blocks/1"])

    assert len(policy.kept) == 4
    assert "blocks/11/fc1" in policy.active


@pytest.mark.parametrize(
    "name", ["blocks/3", "blocks", "fc1", "blocks/0/norm1", "head", "blocks/0/fc", "blocks/1/merge"]
)
def test_a_name_of_no_layer_is_refused(name: str, merged: Path) -> None:
    graph = read_graph(merged)
    if name == "blocks":  # every layer is below it
        assert choose(graph, "vit-linear", keep=[name]).active == ()
        return

    with pytest.raises(UsageError, match="no layer of this graph") as caught:
        choose(graph, "vit-linear", keep=["blocks/0/fc1", name])

    assert caught.value.where == "--keep"
    assert "blocks/0/attn/qkv" in caught.value.fix


def test_an_attention_is_no_layer_of_the_linear_preset(merged: Path) -> None:
    policy = choose(read_graph(merged), "vit-linear", keep=["blocks/2/attn"])

    assert policy.kept == ("blocks/2/attn/qkv", "blocks/2/attn/proj")


def test_an_unknown_preset_is_refused(merged: Path) -> None:
    with pytest.raises(UsageError, match="vit-everything") as caught:
        choose(read_graph(merged), "vit-everything")

    assert "vit-linear" in caught.value.what


def test_only_and_without_are_opposites() -> None:
    policy = Policy("vit-linear", ("a", "b", "c"))

    assert policy.without("b").active == ("a", "c")
    assert policy.without("b").without("a").kept == ("b", "a")
    assert policy.only("b").active == ("b",)
    assert policy.without("b").only("b").active == ("b",)
    assert policy.active == ("a", "b", "c")
