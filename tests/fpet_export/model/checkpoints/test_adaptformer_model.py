"""Files of AdaptFormer's own code against a loop written from its paper."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fpet_export
from engines.errors import UsageError
from tests.fpet_export.command_line import call
from tests.fpet_export.model.checkpoints.test_overlay import batch_norm_head
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

RANK, SCALE = 8, 0.4
LEARNED = (0.3, -0.7)


def tuned(*, learned: bool = False) -> Tensors:
    draw = Drawing()
    found: Tensors = {}
    for index in range(SPEC.depth):
        path = f"blocks.{index}.adaptmlp."
        found |= {
            path + "down_proj.weight": draw(RANK, WIDTH),
            path + "down_proj.bias": draw(RANK),
            path + "up_proj.weight": 2 * draw(WIDTH, RANK),
            path + "up_proj.bias": draw(WIDTH),
        }
        if learned:
            found[path + "scale"] = torch.tensor([LEARNED[index]])
    return found


def of_the_code(tensors: Tensors) -> Tensors:
    """The network as this code names it: q, k and v apart, no module for the MLP."""
    found: Tensors = {}
    for name, tensor in tensors.items():
        if ".attn.qkv." in name:
            for part, own in zip("qkv", tensor.chunk(3), strict=True):
                found[name.replace("qkv", f"{part}_proj")] = own.clone()
        else:
            found[name.replace(".mlp.", ".")] = tensor
    return found


def beside(block: int, x: np.ndarray, y: np.ndarray, scale: float = SCALE) -> np.ndarray:
    """The adapter reads the residual stream, token by token."""
    t = {n.rpartition("adaptmlp.")[2]: wide(v) for n, v in tuned().items() if f"s.{block}." in n}
    hidden = np.maximum(x @ t["down_proj.weight"].T + t["down_proj.bias"], 0)
    return np.asarray(scale * (hidden @ t["up_proj.weight"].T + t["up_proj.bias"]))


def wanted() -> np.ndarray:
    return expected(backbone() | head(), beside=beside)


def write(folder: Path, tensors: Tensors, last: Tensors | None = None) -> Path:
    content: dict[str, Any] = {
        "model": of_the_code(backbone()) | (last or head()) | tensors,
        "args": argparse.Namespace(ffn_adapt=True),
    }
    return save(folder / "checkpoint-99.pth", content)


def test_it_is_what_the_paper_says(tmp_path: Path) -> None:
    path = write(tmp_path, tuned())
    assert formats(path) == ["adaptformer_model"]

    run = fpet_export.load(path, scale=SCALE, **SAID)

    assert run.checkpoint.method == "adaptformer"
    proven(run, wanted(), tmp_path, stay=SPEC.depth)
    is_other(fpet_export.load(path, scale=0.1, **SAID), wanted())


def test_a_learned_scale_is_in_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, tuned(learned=True))

    run = fpet_export.load(path, **SAID)

    answer = expected(
        backbone() | head(),
        beside=lambda block, x, y: beside(block, x, y, LEARNED[block]),
    )
    proven(run, answer, tmp_path, stay=SPEC.depth)
    refused(path, "--scale", kind=UsageError, scale=0.1, **SAID)


def test_its_head_may_have_a_batch_norm(tmp_path: Path) -> None:
    path = write(tmp_path, tuned(), batch_norm_head())
    parts = {name: wide(t) for name, t in batch_norm_head().items()}
    plain = {f"head.{kind}": batch_norm_head()[f"head.1.{kind}"] for kind in ("weight", "bias")}

    def before(name: str, x: np.ndarray) -> np.ndarray:
        mean, variance = parts["head.0.running_mean"], parts["head.0.running_var"]
        return x if name != "head" else np.asarray((x - mean) / np.sqrt(variance + 1e-6))

    answer = expected(backbone() | plain, beside=beside, before=before)
    proven(fpet_export.load(path, scale=SCALE, **SAID), answer, tmp_path, stay=SPEC.depth)


def test_it_merges_and_goes_through_the_command_line(tmp_path: Path) -> None:
    path = write(tmp_path, tuned())
    words = [path, "--heads", SPEC.heads, "--pool", "token", "--normalisation", NORMALISATION]
    words += ["--scale", SCALE, "--merge-block", 0]

    inspected = call("inspect", *words)
    exported = call("export", *words, "-o", tmp_path / "out")

    assert inspected.code == exported.code == 0, exported.err
    assert "2 parts stay in the graph and cost" in " ".join(inspected.err.split())


def test_what_nobody_says_is_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path, tuned())
    refused(path, "--scale", "0.1", **SAID)
    name = "blocks.0.adaptmlp.adapter_layer_norm_before."
    norms = {name + "weight": torch.ones(WIDTH), name + "bias": torch.zeros(WIDTH)}
    refused(write(tmp_path, tuned() | norms), "LayerNorm", scale=1, **SAID)
    some = tuned(learned=True)
    del some["blocks.1.adaptmlp.scale"]
    refused(write(tmp_path, some), "blocks.1.adaptmlp.scale", **SAID)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: m.name)
@pytest.mark.parametrize(
    "name",
    ["blocks.0.adaptmlp.up_proj.bias", "blocks.1.adaptmlp.down_proj.weight",
     "blocks.1.attn.k_proj.weight"],
)  # fmt: skip
def test_a_damaged_file_is_refused(name: str, mutation: Mutation, tmp_path: Path) -> None:
    tensors = of_the_code(backbone()) | head() | tuned()
    if "attn" in name:  # refused as a part of the network's own qkv
        mutation = Mutation(mutation.name, mutation.change)
    damaged(tmp_path, tensors, mutation, name, scale=1, **SAID)
