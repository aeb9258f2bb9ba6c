"""Linears, attentions and sites are found by structure in everything that is exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest

from calibration import roles
from engines.errors import InputError
from engines.onnx_graph.files import read_graph
from tests.calibration.exports import DEPTH, MERGE_BLOCK, Exports

FOUR = ("attn/qkv", "attn/proj", "fc1", "fc2")
EVERY = [f"blocks/{block}/{part}" for block in range(DEPTH) for part in FOUR]
ATTENTIONS = [f"blocks/{block}/attn" for block in range(DEPTH)]

ALL_TOKENS: list[dict[str, Any]] = [
    {},
    {"opset": 17},
    {"input": "uint8-nhwc"},
    {"method": "adaptformer"},
    {"batch": (1, 4)},
    {"merge_block": None},
    {"qkv_bias": False},
]


@pytest.mark.parametrize("variant", ALL_TOKENS, ids=str)
def test_four_linears_and_one_attention_a_block(variant: dict[str, Any], exports: Exports) -> None:
    graph = read_graph(exports(**variant))

    assert [linear.name for linear in roles.linears(graph)] == EVERY
    assert [attention.name for attention in roles.attentions(graph)] == ATTENTIONS


def test_the_last_block_may_split_qkv(on_cpu: Path) -> None:
    found = roles.linears(read_graph(on_cpu))

    last = DEPTH - 1
    names = {f"blocks/{last}/{part}" for part in ("attn/query", "attn/key_value", *FOUR[1:])}
    assert {linear.name for linear in found} == {*EVERY[: 4 * last], *names}
    assert len(found) == 4 * last + 5


@pytest.mark.slow
def test_twelve_blocks_have_48_linears_and_12_attentions(exports: Exports) -> None:
    """The shape of a ViT-B that is merged after its sixth block."""
    graph = read_graph(exports(depth=12, merge_block=5))

    found = roles.linears(graph)
    assert len(found) == len({linear.name for linear in found}) == 48
    assert [attention.block for attention in roles.attentions(graph)] == list(range(12))
    assert len(roles.sites(graph)) == 48 + 4 * 12


def test_a_linear_says_what_it_multiplies(merged: Path) -> None:
    graph = read_graph(merged)
    shapes = {
        linear.name: (linear.kind, linear.block, tuple(linear.weight.shape))
        for linear in roles.linears(graph)
    }

    assert shapes["blocks/2/attn/qkv"] == ("qkv", 2, (64, 192))
    assert shapes["blocks/0/attn/proj"] == ("proj", 0, (64, 64))
    assert shapes["blocks/1/fc1"] == ("fc1", 1, (64, 128))
    assert shapes["blocks/1/fc2"] == ("fc2", 1, (128, 64))
    for linear in roles.linears(graph):
        assert linear.activation.shape[-1] == linear.weight.shape[0]


def test_an_attention_says_what_it_multiplies_with_and_without_key_bias(merged: Path) -> None:
    found = roles.attentions(read_graph(merged))

    biased = [attention.softmax.inputs[0].inputs[0].op == "Add" for attention in found]
    assert biased == [block > MERGE_BLOCK for block in range(DEPTH)]
    for attention in found:
        tokens = 17 if attention.block <= MERGE_BLOCK else 9
        shapes = {role: tuple(tensor.shape) for role, tensor in attention.tensors().items()}
        assert shapes == {
            "q": (1, 2, tokens, 32),
            "k": (1, 2, 32, tokens),
            "probabilities": (1, 2, tokens, tokens),
            "v": (1, 2, tokens, 32),
        }
        assert attention.tensors()["probabilities"].inputs[0] is attention.softmax


@pytest.mark.parametrize("variant", [{}, {"method": "adaptformer"}, {"target": "cpu"}], ids=str)
def test_adapters_merge_and_head_are_no_sites(variant: dict[str, Any], exports: Exports) -> None:
    graph = read_graph(exports(**variant))
    multiplied = {id(node) for node in graph.nodes if node.op in ("MatMul", "Gemm", "Conv")}
    in_blocks = {id(linear.product) for linear in roles.linears(graph)}
    in_blocks |= {id(node) for each in roles.attentions(graph) for node in (each.scores, each.mix)}

    others = {node.name for node in graph.nodes if id(node) in multiplied - in_blocks}
    expected = {"patches/Conv", "head/Gemm", "blocks/1/merge/key/MatMul"}
    expected |= {f"blocks/1/merge/MatMul{end}" for end in ("", "_2", "_3", "_4")}
    if "method" in variant:
        expected |= {
            f"blocks/{block}/adapters/0/{part}/MatMul" for block in range(DEPTH) for part in (0, 2)
        }
    assert others == expected


def test_a_product_of_the_merge_is_no_linear_whatever_its_name(merged: Path) -> None:
    graph = read_graph(merged)
    for node in graph.nodes:
        node.name = node.name.replace("merge/key/", "merge/proj/")

    assert [linear.name for linear in roles.linears(graph)] == EVERY


def test_sites_are_named_by_what_they_are_for(merged: Path) -> None:
    graph = read_graph(merged)
    found = roles.sites(graph)

    assert {site.name for site in found} == {f"{name}/input" for name in EVERY} | {
        f"{name}/{role}" for name in ATTENTIONS for role in ("q", "k", "v", "probabilities")
    }
    assert len({site.tensor for site in found}) == len(found)
    assert {site.tensor for site in found} <= set(graph.tensors())
    kinds = {site.name.rpartition("/")[2] == site.kind for site in found}
    assert kinds == {True}
    assert {site.consumer for site in found} == {*EVERY, *ATTENTIONS}


def test_a_tensor_that_two_linears_read_comes_once(on_cpu: Path) -> None:
    """The key and value projection and a query of all tokens read the same norm elsewhere."""
    graph = read_graph(on_cpu)
    tensors = [site.tensor for site in roles.sites(graph)]

    assert len(tensors) == len(set(tensors)) == 4 * (DEPTH - 1) + 5 + 4 * DEPTH


def test_another_graph_is_refused(tmp_path: Path) -> None:
    node = onnx.helper.make_node("Relu", ["x"], ["y"], name="only")
    values = [onnx.helper.make_tensor_value_info(name, 1, [1, 4]) for name in "xy"]
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "one", values[:1], values[1:]))
    onnx.save(model, str(tmp_path / "other.onnx"))

    with pytest.raises(InputError, match="no linear layer of a block") as caught:
        roles.sites(read_graph(tmp_path / "other.onnx"))

    assert "fpet-export export" in caught.value.fix
