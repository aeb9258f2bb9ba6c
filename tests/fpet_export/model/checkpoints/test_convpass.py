"""Convpass's files against a loop over the pixels of every kernel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import fpet_export
from engines.errors import UsageError
from tests.fpet_export.command_line import call
from tests.fpet_export.model.checkpoints.tuned_files import (
    CLASSES,
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
    pixels,
    proven,
    refused,
    save,
    wide,
)

RANK, SCALE = 5, 0.7
BOTH = ("adapter_attn", "adapter_mlp")
ROWS, COLUMNS = SPEC.grid


def tuned(branches: tuple[str, ...] = BOTH) -> Tensors:
    draw = Drawing()
    found: Tensors = {}
    for index in range(SPEC.depth):
        for branch in branches:
            name = f"blocks.{index}.{branch}.adapter_"
            found |= {
                name + "down.weight": draw(RANK, WIDTH),
                name + "down.bias": draw(RANK),
                name + "conv.weight": draw(RANK, RANK, 3, 3),
                name + "conv.bias": draw(RANK),
                name + "up.weight": draw(WIDTH, RANK),
                name + "up.bias": draw(WIDTH),
            }
    return found


def quick_gelu(x: np.ndarray) -> np.ndarray:
    return np.asarray(x / (1 + np.exp(-1.702 * x)))


def branch(name: str, norm: str, x: np.ndarray) -> np.ndarray:
    """What a branch adds, which reads normalised tokens; nothing where the run has none."""
    t = {n.removeprefix(f"{name}.adapter_"): wide(v) for n, v in tuned().items() if name in n}
    weights = {n: wide(v) for n, v in backbone().items() if norm in n}
    centred = x - x.mean(axis=1, keepdims=True)
    normal = centred / np.sqrt(x.var(axis=1, keepdims=True) + SPEC.norm_eps)
    normal = normal * weights[f"{norm}.weight"] + weights[f"{norm}.bias"]
    hidden = quick_gelu(normal @ t["down.weight"].T + t["down.bias"])
    seen = np.empty_like(hidden)
    seen[0] = t["conv.weight"][:, :, 1, 1] @ hidden[0] + t["conv.bias"]
    image = hidden[1:].reshape(ROWS, COLUMNS, RANK)
    for i in range(ROWS):
        for j in range(COLUMNS):
            total = t["conv.bias"].copy()
            for a in range(3):
                for b in range(3):
                    row, column = i + a - 1, j + b - 1
                    if 0 <= row < ROWS and 0 <= column < COLUMNS:
                        total += t["conv.weight"][:, :, a, b] @ image[row, column]
            seen[1 + i * COLUMNS + j] = total
    return np.asarray(SCALE * (quick_gelu(seen) @ t["up.weight"].T + t["up.bias"]))


def wanted(branches: tuple[str, ...] = BOTH) -> np.ndarray:
    def beside_attention(block: int, x: np.ndarray) -> np.ndarray:
        here = BOTH[0] in branches
        return branch(f"blocks.{block}.{BOTH[0]}", f"blocks.{block}.norm1", x) if here else 0 * x

    def beside(block: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        here = BOTH[1] in branches
        return branch(f"blocks.{block}.{BOTH[1]}", f"blocks.{block}.norm2", x) if here else 0 * x

    return expected(backbone() | head(), beside_attention=beside_attention, beside=beside)


def write(folder: Path, branches: tuple[str, ...] = BOTH) -> dict[str, Any]:
    base = save(folder / "vit.safetensors", backbone())
    own = {n: t for n, t in tuned().items() if n.split(".")[2] in branches}
    path = save(folder / "models" / "convpass" / "cifar.pt", own | head())
    return SAID | {"run": path, "backbone": base, "scale": SCALE}


@pytest.mark.parametrize("branches", [BOTH, BOTH[:1]])
def test_it_is_what_the_paper_says(branches: tuple[str, ...], tmp_path: Path) -> None:
    said = write(tmp_path, branches)
    assert formats(said["run"]) == ["convpass"]

    run = fpet_export.load(**said)

    proven(run, wanted(branches), tmp_path, stay=SPEC.depth * len(branches))
    is_other(fpet_export.load(**said | {"scale": 1.0}), wanted(branches))
    tokens = SPEC.tokens * SPEC.depth * len(branches)
    assert run.extra_macs() == tokens * (2 * RANK * WIDTH + 9 * RANK * RANK)


def test_the_image_is_not_transposed(tmp_path: Path) -> None:
    name = "blocks.0.adapter_attn.adapter_conv.weight"
    said = write(tmp_path)
    turned = {name: tuned()[name].transpose(2, 3).contiguous()}
    save(said["run"], tuned() | head() | turned)
    is_other(fpet_export.load(**said), wanted())


@pytest.mark.parametrize("last_block", ["class-token", "all-tokens"])
def test_the_last_block_may_compute_the_class_token_alone(last_block: Any, tmp_path: Path) -> None:
    run = fpet_export.load(**write(tmp_path))
    frozen = run.fold().freeze(last_block=last_block)
    found = frozen.outputs(pixels()).logits
    assert np.abs(found - wanted()).max() < 1e-5 * np.abs(wanted()).max()


def test_merging_is_refused_with_the_reason(tmp_path: Path) -> None:
    said = write(tmp_path)
    refused(said.pop("run"), "no image is left", kind=UsageError, **said, merge_block=1)
    words = [tmp_path / "models/convpass/cifar.pt", "--backbone", said["backbone"], "--heads"]
    words += [SPEC.heads, "--pool", "token", "--normalisation", NORMALISATION, "--scale", SCALE]

    for merge in ("fpet@0", "tome:r=2"):
        done = call("export", *words, "--merge", merge, "-o", tmp_path / "out")
        assert done.code == 2, done.err
        assert "no image is left" in " ".join(done.err.split())
    done = call("export", *words, "-o", tmp_path / "out", "--input", "uint8")
    assert done.code == 0, done.err
    assert "convpass: convolution of adapter_attn, adapter_mlp" in " ".join(done.err.split())


def test_its_yaml_lies_in_configs(tmp_path: Path) -> None:
    said = write(tmp_path)
    del said["scale"]
    config = tmp_path / "configs" / "convpass" / "cifar.yaml"
    config.parent.mkdir(parents=True)
    fields = {"name": "cifar", "class_num": CLASSES, "scale": SCALE, "xavier_init": False}
    config.write_text(yaml.safe_dump(fields))
    assert fpet_export.load(**said).facts()["scale"].value == SCALE
    config.unlink()
    refused(said.pop("run"), "nothing says the scale", "--scale", **said)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: m.name)
@pytest.mark.parametrize(
    "name", ["blocks.0.adapter_attn.adapter_conv.weight", "blocks.1.adapter_mlp.adapter_up.bias"]
)
def test_a_damaged_file_is_refused(name: str, mutation: Mutation, tmp_path: Path) -> None:
    base = save(tmp_path / "vit.safetensors", backbone())
    damaged(tmp_path, tuned() | head(), mutation, name, backbone=base, scale=1.0, **SAID)
