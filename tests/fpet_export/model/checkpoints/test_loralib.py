"""Files of loralib and of LoRA-ViT against loops written from their layers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fpet_export
from engines.errors import UsageError
from tests.fpet_export.command_line import call
from tests.fpet_export.model.checkpoints.tuned_files import (
    CLASSES,
    HIDDEN,
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

RANK, ALPHA = 4, 6.0
SIZES = {"attn.proj": (WIDTH, WIDTH), "mlp.fc1": (HIDDEN, WIDTH), "mlp.fc2": (WIDTH, HIDDEN)}
After = Callable[[str, np.ndarray, np.ndarray], np.ndarray]


def of_linears() -> Tensors:
    """Factors of every linear but qkv, of fused qkv as one, and of the head."""
    draw = Drawing()
    sizes = {f"blocks.{i}.{n}": s for i in range(SPEC.depth) for n, s in SIZES.items()}
    sizes |= {f"blocks.{i}.attn.qkv": (3 * WIDTH, WIDTH) for i in range(SPEC.depth)}
    sizes["head"] = (CLASSES, WIDTH)
    found: Tensors = {}
    for layer, (out, width) in sizes.items():
        found |= {f"{layer}.lora_A": draw(RANK, width), f"{layer}.lora_B": draw(out, RANK)}
    return found


def of_merged(slots: int) -> Tensors:
    """Factors of a MergedLinear with so many thirds."""
    draw = Drawing()
    found: Tensors = {}
    for index in range(SPEC.depth):
        layer = f"blocks.{index}.attn.qkv"
        found[layer + ".lora_A"] = draw(slots * RANK, WIDTH)
        found[layer + ".lora_B"] = draw(slots * WIDTH, RANK)
    return found


def after_linears(name: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    tensors = of_linears()
    if name + ".lora_A" not in tensors:
        return y
    a, b = wide(tensors[name + ".lora_A"]), wide(tensors[name + ".lora_B"])
    return np.asarray(y + ALPHA / RANK * (x @ a.T @ b.T))


def after_merged(slots: str) -> After:
    tensors = of_merged(len(slots))

    def change(name: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        if not name.endswith("qkv"):
            return y
        a, b = wide(tensors[name + ".lora_A"]), wide(tensors[name + ".lora_B"])
        y = y.copy()
        for j, third in enumerate(slots):
            own = x @ a[j * RANK : (j + 1) * RANK].T @ b[j * WIDTH : (j + 1) * WIDTH].T
            start = "qkv".index(third) * WIDTH
            y[:, start : start + WIDTH] += ALPHA / RANK * own
        return y

    return change


def write(folder: Path, tensors: Tensors) -> dict[str, Any]:
    """Return the arguments that load the run."""
    base = save(folder / "vit.safetensors", backbone())
    return SAID | {"run": save(folder / "cifar.pt", tensors), "backbone": base}


def test_linears_are_what_loralib_computes(tmp_path: Path) -> None:
    said = write(tmp_path, of_linears() | head())
    assert formats(said["run"]) == ["loralib"]

    run = fpet_export.load(**said, alpha=ALPHA)

    wanted = expected(backbone() | head(), after=after_linears)
    proven(run, wanted, tmp_path)
    is_other(fpet_export.load(**said, alpha=1.0), wanted)


@pytest.mark.parametrize("slots", ["q", "qv", "kv", "qkv"])
def test_merged_linears_are_what_loralib_computes(slots: str, tmp_path: Path) -> None:
    said = write(tmp_path, of_merged(len(slots)) | head()) | {"alpha": ALPHA}
    given = {} if slots == "qkv" else {"qkv_slots": slots}

    run = fpet_export.load(**said, **given)

    wanted = expected(backbone() | head(), after=after_merged(slots))
    proven(run, wanted, tmp_path)
    if slots != "qkv":
        other = {"q": "v", "qv": "qk", "kv": "qv"}[slots]
        is_other(fpet_export.load(**said, qkv_slots=other), wanted)
        path = said.pop("run")
        refused(path, "--qkv-slots", **said)
        refused(path, "--qkv-slots", **said, qkv_slots="k" if slots != "q" else "qv")


def test_biases_beside_the_factors_replace_those_of_the_backbone(tmp_path: Path) -> None:
    draw = Drawing(9)
    biases = {n: draw(*t.shape) for n, t in backbone().items() if n.endswith("bias")}
    said = write(tmp_path, of_linears() | biases | head())

    run = fpet_export.load(**said, alpha=ALPHA)

    proven(run, expected(backbone() | biases | head(), after=after_linears), tmp_path)


def test_what_loralib_does_not_say_is_asked_for(tmp_path: Path) -> None:
    said = write(tmp_path, of_linears() | head())
    path = said.pop("run")
    refused(path, "--alpha", **said)
    refused(path, "rank is 4", "5", **said, alpha=1, rank=5)
    refused(path, "--scale", **said, scale=1, kind=UsageError)
    refused(path, "--qkv-slots", **said, alpha=1, qkv_slots="q", kind=UsageError)
    whole = save(path, backbone() | head() | of_linears())
    refused(whole, "merges them", "lora_state_dict", **said, alpha=1)
    headless = save(path, of_linears())
    refused(headless, "head.weight", "head.bias", **said, alpha=1)
    foreign = save(path, of_merged(3) | head() | {"blocks.0.attn.q.lora_A": torch.ones(4, 64)})
    refused(foreign, "blocks.0.attn.q", **said, alpha=1)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: m.name)
@pytest.mark.parametrize(
    "name", ["blocks.0.attn.qkv.lora_A", "blocks.1.attn.qkv.lora_B", "head.bias"]
)
def test_a_damaged_file_of_loralib_is_refused(
    name: str, mutation: Mutation, tmp_path: Path
) -> None:
    said = write(tmp_path, of_merged(3) | head())
    del said["run"]
    damaged(tmp_path, of_merged(3) | head(), mutation, name, alpha=1, **said)


# -- LoRA-ViT ----------------------------------------------------------------------------------

HEAD = f"fc_{WIDTH}in_{CLASSES}out"


def of_lora_vit() -> Tensors:
    draw = Drawing()
    found: Tensors = {}
    for index in range(2 * SPEC.depth):
        found[f"w_a_{index:03d}"] = draw(RANK, WIDTH)
        found[f"w_b_{index:03d}"] = draw(WIDTH, RANK)
    return found | {HEAD: head()["head.weight"]}


def after_lora_vit(factor: int) -> After:
    tensors = of_lora_vit()

    def change(name: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        if not name.endswith("qkv"):
            return y
        y = y.copy()
        block = int(name.split(".")[1])
        for n, start in ((2 * block, 0), (2 * block + 1, 2 * WIDTH)):
            a, b = wide(tensors[f"w_a_{n:03d}"]), wide(tensors[f"w_b_{n:03d}"])
            y[:, start : start + WIDTH] += factor * (x @ a.T @ b.T)
        return y

    return change


@pytest.mark.parametrize(("alpha", "factor"), [(8, 2), (11, 2)])
def test_lora_vit_divides_whole_numbers(alpha: int, factor: int, tmp_path: Path) -> None:
    said = write(tmp_path, of_lora_vit())
    assert formats(said["run"]) == ["lora_vit"]

    run = fpet_export.load(**said, alpha=alpha)

    weights = backbone() | {"head.weight": head()["head.weight"], "head.bias": torch.zeros(CLASSES)}
    wanted = expected(weights, after=after_lora_vit(factor))
    proven(run, wanted, tmp_path)
    is_other(fpet_export.load(**said, alpha=12), wanted)


def test_lora_vit_without_a_bias_warns(tmp_path: Path) -> None:
    said = write(tmp_path, of_lora_vit())
    words = [said["run"], "--backbone", said["backbone"], "--heads", SPEC.heads, "--pool", "token"]
    words += ["--normalisation", NORMALISATION, "--alpha", 8]

    done = call("inspect", *words)

    assert done.code == 0, done.err
    text = " ".join(done.err.split())
    assert "no bias of the head" in text
    assert f"lora-vit: low-rank update of q, v (rank {RANK})" in text


def test_what_lora_vit_does_not_say_is_asked_for(tmp_path: Path) -> None:
    said = write(tmp_path, of_lora_vit())
    path = said.pop("run")
    refused(path, "--alpha", **said)
    refused(path, "alpha is 2.5", **said, alpha=2.5)
    refused(path, "3 // rank 4 is 0", **said, alpha=3)
    two_heads = save(path, of_lora_vit() | {"fc_3in_4out": torch.ones(4, 3)})
    refused(two_heads, "fc_3in_4out", **said, alpha=8)
    some = {n: t for n, t in of_lora_vit().items() if n not in ("w_a_003", "w_b_003")}
    refused(save(path, some), "w_a_003", **said, alpha=8)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: m.name)
@pytest.mark.parametrize("name", ["w_a_000", "w_b_002", HEAD])
def test_a_damaged_file_of_lora_vit_is_refused(
    name: str, mutation: Mutation, tmp_path: Path
) -> None:
    said = write(tmp_path, of_lora_vit())
    del said["run"]
    if name == HEAD:  # which is known under the name of a head from then on
        mutation = Mutation(mutation.name, mutation.change)
    damaged(tmp_path, of_lora_vit(), mutation, name, alpha=8, **said)
