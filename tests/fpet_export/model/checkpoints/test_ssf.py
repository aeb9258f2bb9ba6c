"""SSF runs against a loop written from the paper."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fpet_export
from engines.errors import UsageError
from fpet_export.model.backbones.random_weights import draw, spec_of_name
from fpet_export.model.checkpoints import ssf
from tests.fpet_export.command_line import call
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


def names() -> dict[str, tuple[str, int]]:
    """What stands behind each layer: its name with a gap, and its width."""
    found = {"patch_embed": ("patch_embed.ssf_{}_1", WIDTH), "norm": ("ssf_{}_1", WIDTH)}
    for i in range(SPEC.depth):
        block = f"blocks.{i}."
        found |= {
            block + "norm1": (block + "ssf_{}_1", WIDTH),
            block + "norm2": (block + "ssf_{}_2", WIDTH),
            block + "attn.qkv": (block + "attn.ssf_{}_1", 3 * WIDTH),
            block + "attn.proj": (block + "attn.ssf_{}_2", WIDTH),
            block + "mlp.fc1": (block + "mlp.ssf_{}_1", HIDDEN),
            block + "mlp.fc2": (block + "mlp.ssf_{}_2", WIDTH),
        }
    return found


def tuned() -> Tensors:
    one = Drawing()
    found: Tensors = {}
    for name, width in names().values():
        found |= {name.format("scale"): one(width, near=1), name.format("shift"): one(width)}
    return found


def after(name: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """What SSF puts behind every layer but the head."""
    if name == "head":
        return y
    pattern, tensors = names()[name][0], tuned()
    scale, shift = (wide(tensors[pattern.format(kind)]) for kind in ("scale", "shift"))
    return np.asarray(y * scale + shift)


def whole() -> Tensors:
    return backbone() | head() | tuned()


def wanted() -> np.ndarray:
    return expected(backbone() | head(), after=after)


def test_it_is_what_the_paper_says(tmp_path: Path) -> None:
    saved = {"state_dict": whole(), "epoch": 3, "arch": "a_name_that_timm_does_not_know"}
    path = save(tmp_path / "model_best.pth.tar", saved)
    assert formats(path) == ["ssf"]

    run = fpet_export.load(path, **SAID)

    assert run.checkpoint.method == "ssf" and run.quality == "trained"
    proven(run, wanted(), tmp_path)


@pytest.mark.parametrize("name", ["ssf.safetensors", "ssf.pth", "ssf.bin"])
def test_other_containers_hold_it_too(name: str, tmp_path: Path) -> None:
    path = save(tmp_path / name, whole())
    assert formats(path) == ["ssf"]
    assert fpet_export.load(path, **SAID).checkpoint.name == "ssf"


def test_scale_and_shift_are_not_confused(tmp_path: Path) -> None:
    tensors = {
        name.replace("scale", "x").replace("shift", "scale").replace("x_", "shift_"): tensor
        for name, tensor in tuned().items()
    }
    path = save(tmp_path / "a.pth", backbone() | head() | tensors)
    is_other(fpet_export.load(path, **SAID), wanted())


def test_what_timms_script_wrote_says_heads_and_pool(tmp_path: Path) -> None:
    name = "vit_tiny_patch16_224"
    spec = dataclasses.replace(spec_of_name(name, where=name), classes=3)
    places = [("patch_embed.ssf_{}_1", spec.width), ("ssf_{}_1", spec.width)]
    drawn = draw(spec, 0)
    for index in range(spec.depth):
        block = f"blocks.{index}."
        for site, pattern in ssf._OF_BLOCK.items():
            places.append((block + pattern, len(drawn[f"{block}{site}.bias"])))
    tensors = {n.format(kind): torch.ones(w) for n, w in places for kind in ("scale", "shift")}
    script = argparse.Namespace(model=name, gp="token", img_size=None)
    saved = {"state_dict": drawn | tensors, "arch": name, "args": script}
    path = save(tmp_path / "a.pth.tar", saved)

    run = fpet_export.load(path, normalisation="half")

    assert str(run.facts()["backbone heads"]) == "3 (arch in a.pth.tar)"
    refused(path, "4", "3", "arch", heads=4, normalisation="half")


def test_what_the_file_does_not_say_is_asked_for(tmp_path: Path) -> None:
    path = save(tmp_path / "a.pth", whole())
    for option in ("heads", "pool", "normalisation"):
        said = {name: value for name, value in SAID.items() if name != option}
        refused(path, f"--{option}", **said)


def test_options_of_other_methods_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.pth", whole())
    others: list[dict[str, Any]] = [
        {"rank": 4}, {"scale": 2.0}, {"alpha": 8.0}, {"bit": 1}, {"method": "lora"},
    ]  # fmt: skip
    for said in others:
        refused(path, f"--{min(said)}", kind=UsageError, **SAID, **said)


def test_another_backbone_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.pth", whole())
    other = save(tmp_path / "b.safetensors", backbone())
    refused(path, "leave --backbone out", backbone=other, **SAID)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: m.name)
@pytest.mark.parametrize("name", ["ssf_scale_1", "blocks.1.attn.ssf_shift_1", "head.bias"])
def test_a_damaged_file_is_refused(mutation: Mutation, name: str, tmp_path: Path) -> None:
    damaged(tmp_path, whole(), mutation, name, **SAID)


def test_inspect_says_what_it_is(tmp_path: Path) -> None:
    path = save(tmp_path / "a.pth", whole())
    words = ["--heads", SPEC.heads, "--pool", "token", "--normalisation", "half"]
    done = call("inspect", path, *words)

    assert done.code == 0, done.err
    text = " ".join(done.err.split())
    assert "ssf: scale and shift of patch_embed, norm, norm1" in text
    assert "everything folds" in text and "no merging" in text
