"""DyT's files against a loop: an adapter at every token, an MLP where a gate is open."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

import fpet_export
from tests.fpet_export.command_line import call
from tests.fpet_export.model.checkpoints import test_adaptformer_model
from tests.fpet_export.model.checkpoints.tuned_files import (
    MUTATIONS,
    NORMALISATION,
    SAID,
    SPEC,
    WIDTH,
    Drawing,
    Mutation,
    Tensors,
    backbone,
    damaged,
    expected,
    formats,
    head,
    is_other,
    proven,
    refused,
    save,
    wide,
)

RANK, SCALE = 5, 0.6


def tuned() -> Tensors:
    draw = Drawing()
    found: Tensors = {}
    for index in range(SPEC.depth):
        path = f"blocks.{index}."
        found |= {
            path + "mlp_token_select.mlp_head.weight": 2 * draw(1, WIDTH),
            path + "mlp_token_select.mlp_head.bias": draw(1),
            path + "adaptmlp.down_proj.weight": draw(RANK, WIDTH),
            path + "adaptmlp.down_proj.bias": draw(RANK),
            path + "adaptmlp.up_proj.weight": draw(WIDTH, RANK),
            path + "adaptmlp.up_proj.bias": draw(WIDTH),
        }
    return found


def beside(block: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The adapter of every token, less the MLP where its gate is shut."""
    t = {n.partition(f"s.{block}.")[2]: wide(v) for n, v in tuned().items() if f"s.{block}." in n}
    found = np.empty_like(x)
    for token, row in enumerate(x):
        hidden = np.maximum(t["adaptmlp.down_proj.weight"] @ row + t["adaptmlp.down_proj.bias"], 0)
        own = SCALE * (t["adaptmlp.up_proj.weight"] @ hidden + t["adaptmlp.up_proj.bias"])
        score = t["mlp_token_select.mlp_head.weight"] @ row + t["mlp_token_select.mlp_head.bias"]
        is_open = token == 0 or 1 / (1 + np.exp(-score.item())) > 0.5
        found[token] = own if is_open else own - y[token]
    return found


def all_open(block: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    change = beside(block, x, 0 * y)
    return np.asarray(change)


def wanted(**hooks: Any) -> np.ndarray:
    return expected(backbone() | head(), **({"beside": beside} | hooks))


def write(folder: Path) -> dict[str, Any]:
    base = save(folder / "vit.safetensors", backbone())
    path = save(folder / "dyt.pth", {"model": tuned() | head(), "epoch": 99})
    return SAID | {"run": path, "backbone": base, "scale": SCALE}


def test_a_shut_gate_leaves_the_mlp_out(tmp_path: Path) -> None:
    said = write(tmp_path)
    assert formats(said["run"]) == ["dyt"]

    run = fpet_export.load(**said)

    proven(run, wanted(), tmp_path, stay=2 * SPEC.depth)
    is_other(run, wanted(beside=all_open))
    is_other(fpet_export.load(**said | {"scale": 1.0}), wanted())


@pytest.mark.parametrize("merge_block", [0, 1])
def test_a_gate_reads_merged_tokens(merge_block: int, tmp_path: Path) -> None:
    run = fpet_export.load(**write(tmp_path), merge_block=merge_block)
    proven(run, wanted(merge_block=merge_block), tmp_path, stay=2 * SPEC.depth)


def test_a_whole_model_is_its_own_backbone(tmp_path: Path) -> None:
    for network in (backbone(), test_adaptformer_model.of_the_code(backbone())):
        path = save(tmp_path / "whole.pth", {"model": network | tuned() | head()})
        assert formats(path) == ["dyt"]
        run = fpet_export.load(path, scale=SCALE, **SAID)
        proven(run, wanted(), tmp_path / str(len(network)), stay=2 * SPEC.depth)


def test_a_network_with_another_token_in_front_is_refused(tmp_path: Path) -> None:
    said = write(tmp_path)
    own = backbone()
    positions = torch.cat([own["pos_embed"][:, :1], own["pos_embed"]], dim=1)
    more = {"reg_token": own["cls_token"].clone(), "pos_embed": positions}
    save(said["backbone"], own | more)
    refused(said.pop("run"), "cls reg", "class token alone", **said)


def test_the_scale_is_asked_for(tmp_path: Path) -> None:
    said = write(tmp_path)
    del said["scale"]
    refused(said.pop("run"), "scale", "--scale", **said)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: m.name)
@pytest.mark.parametrize(
    "name", ["blocks.1.mlp_token_select.mlp_head.bias", "blocks.0.adaptmlp.down_proj.weight"]
)
def test_a_damaged_file_is_refused(name: str, mutation: Mutation, tmp_path: Path) -> None:
    base = save(tmp_path / "vit.safetensors", backbone())
    damaged(tmp_path, tuned() | head(), mutation, name, backbone=base, scale=1.0, **SAID)


def test_gates_stay_in_float32_in_half_precision(tmp_path: Path) -> None:
    said = write(tmp_path)
    words = [said["run"], "--backbone", said["backbone"], "--heads", SPEC.heads, "--pool", "token"]
    words += ["--normalisation", NORMALISATION, "--scale", SCALE, "--merge-block", 0]

    done = call("export", *words, "-o", tmp_path / "out", "--precision", "fp16", "--target", "rtx")

    assert done.code == 0, done.err
    assert "dyt: gate of the MLP of mlp_token_select, bottleneck of adaptmlp" in " ".join(
        done.err.split()
    )
    manifest = json.loads((tmp_path / "out" / "model.manifest.json").read_text())
    assert 5 < float(manifest["facts"]["skipped by gates"].partition("%")[0]) < 95
    graph = onnx.load(tmp_path / "out" / "model.fp16.onnx").graph
    types = {info.name: info.type.tensor_type.elem_type for info in graph.value_info}
    compared = [node for node in graph.node if node.op_type == "Greater"]
    assert len(compared) == SPEC.depth
    assert {types[node.input[0]] for node in compared} == {onnx.TensorProto.FLOAT}
