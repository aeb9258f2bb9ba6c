"""Consolidator runs against a loop written from the paper's formulas."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fpet_export
from tests.fpet_export.model.checkpoints.tuned_files import (
    HIDDEN,
    MUTATIONS,
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

LAYERS = {
    "attn.qkv": (3 * WIDTH, WIDTH),
    "attn.proj": (WIDTH, WIDTH),
    "mlp.fc1": (HIDDEN, WIDTH),
    "mlp.fc2": (WIDTH, HIDDEN),
}


def tuned(groups: tuple[int, ...] = (32,)) -> Tensors:
    """The branches of every layer, with so many groups each."""
    draw = Drawing()
    found = {}
    for index in range(SPEC.depth):
        for layer, (out, width) in LAYERS.items():
            for branch, count in enumerate(groups):
                name = f"blocks.{index}.{layer}.fc_rep_branches.{branch}.group_fc."
                found[name + "weight"] = 0.5 * draw(out, width // count)[..., None]
                found[name + "bias"] = draw(out)
    return found


def whole(branches: Tensors) -> Tensors:
    """The network as the training script saves it."""
    found = {}
    for name, tensor in (backbone() | head()).items():
        layer, _, kind = name.rpartition(".")
        if layer.partition(".")[2].partition(".")[2] in LAYERS:
            name = f"{layer}.fc_origin.{kind}"
            tensor = tensor[..., None] if kind == "weight" else tensor
        found[name] = tensor
    return found | branches


def after(
    branches: Tensors, *, shuffled: bool
) -> Callable[[str, np.ndarray, np.ndarray], np.ndarray]:
    """What the branches add: shuffle as a reshape, then every group by itself."""

    def change(name: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        for path, weight in branches.items():
            if not path.startswith(name + ".fc_rep") or not path.endswith("weight"):
                continue
            kernel = wide(weight)[..., 0]
            groups = x.shape[1] // kernel.shape[1]
            read = x
            if shuffled:
                read = x.reshape(len(x), groups, -1).transpose(0, 2, 1).reshape(x.shape)
            rows = len(kernel) // groups
            parts = [
                part @ kernel[rows * group : rows * (group + 1)].T
                for group, part in enumerate(np.split(read, groups, axis=1))
            ]
            bias = wide(branches[path.replace("weight", "bias")])
            y = y + np.concatenate(parts, axis=1) + bias
        return y

    return change


def wanted(branches: Tensors, *, shuffled: bool) -> np.ndarray:
    return expected(backbone() | head(), after=after(branches, shuffled=shuffled))


def write(folder: Path, tensors: Tensors) -> Path:
    content: dict[str, Any] = {"model": tensors, "epoch": 9, "args": argparse.Namespace(lr=0.1)}
    return save(folder / "checkpoint.pth", content)


@pytest.mark.parametrize("shuffle", ["off", "on"])
@pytest.mark.parametrize("groups", [(32,), (4, 16)])
def test_it_is_what_the_paper_says(shuffle: str, groups: tuple[int, ...], tmp_path: Path) -> None:
    branches = tuned(groups)
    path = write(tmp_path, whole(branches))
    assert formats(path) == ["consolidator"]

    run = fpet_export.load(path, channel_shuffle=shuffle, **SAID)

    answer = wanted(branches, shuffled=shuffle == "on")
    proven(run, answer, tmp_path)
    other = "on" if shuffle == "off" else "off"
    is_other(fpet_export.load(path, channel_shuffle=other, **SAID), answer)


def test_the_shuffle_is_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path, whole(tuned()))
    refused(path, "--channel-shuffle off", "--channel-shuffle on", **SAID)


def test_layers_that_are_half_there_are_refused(tmp_path: Path) -> None:
    tensors = whole(tuned())
    layer = "blocks.1.mlp.fc2"
    branch = {n: t for n, t in tensors.items() if not n.startswith(layer + ".fc_rep")}
    said: dict[str, Any] = SAID | {"channel_shuffle": "off"}

    refused(write(tmp_path, branch), layer, "without fc_rep_branches", **said)
    plain = dict(tensors)
    for kind in ("weight", "bias"):
        plain[f"{layer}.{kind}"] = plain.pop(f"{layer}.fc_origin.{kind}").squeeze(-1)
    refused(write(tmp_path, plain), layer, "no fc_origin", **said)
    both = tensors | {layer + ".bias": torch.zeros(WIDTH)}
    refused(write(tmp_path, both), layer + ".bias", "both", **said)


def test_groups_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    tensors = whole(tuned())
    name = "blocks.1.attn.proj.fc_rep_branches.0.group_fc.weight"
    tensors[name] = torch.ones(WIDTH, 3, 1)
    refused(write(tmp_path, tensors), name, "groups", channel_shuffle="off", **SAID)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: m.name)
@pytest.mark.parametrize(
    "name",
    [
        "blocks.0.attn.qkv.fc_rep_branches.0.group_fc.weight",
        "blocks.1.mlp.fc1.fc_rep_branches.0.group_fc.bias",
        "blocks.1.mlp.fc2.fc_origin.bias",
    ],
)
def test_a_damaged_file_is_refused(name: str, mutation: Mutation, tmp_path: Path) -> None:
    said: dict[str, Any] = SAID | {"channel_shuffle": "off"}
    mutated = mutation
    if "fc_origin" in name:  # refused as the network's own tensor, which has another name
        mutated = Mutation(mutation.name, mutation.change, ())
    damaged(tmp_path, whole(tuned()), mutated, name, **said)
