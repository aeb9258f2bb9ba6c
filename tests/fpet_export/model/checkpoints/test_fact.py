"""FacT runs against a loop written from the paper's formulas."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

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
    proven,
    refused,
    save,
    wide,
)

RANK, SCALE = 4, 1.7
KINDS = ("tt", "tk")
LAYERS = {"q": (1, 1), "k": (1, 1), "v": (1, 1), "proj": (1, 1), "fc1": (4, 1), "fc2": (1, 4)}
"""Rows and columns of each core, in ranks."""


def tuned(kind: str) -> Tensors:
    draw = Drawing()
    found = {"FacTu.weight": draw(RANK, WIDTH), "FacTv.weight": draw(WIDTH, RANK)}
    if kind == "tk":
        return found | {
            "FacTc": draw(RANK, RANK, RANK),
            "FacTp": 2 * draw(RANK, 12 * SPEC.depth),
        }
    for index in range(SPEC.depth):
        for layer, (rows, columns) in LAYERS.items():
            part = "mlp" if layer.startswith("fc") else "attn"
            name = f"blocks.{index}.{part}.{layer}_FacTs.weight"
            found[name] = draw(rows * RANK, columns * RANK)
    return found


def core(tensors: Tensors, kind: str, block: int, layer: str) -> np.ndarray:
    """S of the paper: entry by entry from the three factors, or as stated."""
    if kind == "tt":
        part = "mlp" if layer.startswith("fc") else "attn"
        return wide(tensors[f"blocks.{block}.{part}.{layer}_FacTs.weight"])
    c, p = wide(tensors["FacTc"]), wide(tensors["FacTp"])
    rows, columns = LAYERS[layer]
    first = 12 * block + {"q": 0, "k": 1, "v": 2, "proj": 3, "fc1": 4, "fc2": 8}[layer]
    found = np.zeros((rows * RANK, columns * RANK))
    for i in range(RANK):
        for j in range(RANK):
            for k in range(rows * columns):
                value = float(c[i, j] @ p[:, first + k])
                if layer == "fc2":  # (r, 4 r): a row is i, a column j and k
                    found[i, 4 * j + k] = value
                elif layer == "fc1":  # the transpose of (r, 4 r)
                    found[4 * j + k, i] = value
                else:
                    found[j, i] = value
    return found


def after(kind: str, scale: float = SCALE) -> Callable[[str, np.ndarray, np.ndarray], np.ndarray]:
    """What FacT adds to the linears of the blocks, token by token as its code does."""
    tensors = tuned(kind)
    u, v = wide(tensors["FacTu.weight"]), wide(tensors["FacTv.weight"])

    def change(name: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        parts = name.split(".")
        if parts[0] != "blocks" or "norm" in parts[2]:
            return y
        block, layer = int(parts[1]), parts[-1]
        if layer == "qkv":
            added = [x @ u.T @ core(tensors, kind, block, part).T @ v.T for part in "qkv"]
        elif layer == "fc1":
            small = x @ u.T @ core(tensors, kind, block, layer).T
            added = [small[:, k * RANK : (k + 1) * RANK] @ v.T for k in range(4)]
        elif layer == "fc2":
            small = np.concatenate([part @ u.T for part in np.split(x, 4, axis=1)], axis=1)
            added = [small @ core(tensors, kind, block, layer).T @ v.T]
        else:
            added = [x @ u.T @ core(tensors, kind, block, layer).T @ v.T]
        return np.asarray(y + scale * np.concatenate(added, axis=1))

    return change


def wanted(kind: str) -> np.ndarray:
    return expected(backbone() | head(), after=after(kind))


def write(folder: Path, kind: str, name: str = "cifar.pt") -> tuple[Path, Path]:
    base = save(folder / "vit.safetensors", backbone())
    return save(folder / name, tuned(kind) | head()), base


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_what_the_paper_says(kind: str, tmp_path: Path) -> None:
    path, base = write(tmp_path, kind)
    assert formats(path) == ["fact"]

    run = fpet_export.load(path, backbone=base, scale=SCALE, **SAID)

    assert run.checkpoint.method == f"fact-{kind}"
    assert run.facts()["rank"].value == RANK
    proven(run, wanted(kind), tmp_path)
    is_other(fpet_export.load(path, backbone=base, scale=SCALE / 2, **SAID), wanted(kind))


def test_parts_in_another_order_are_another_model(tmp_path: Path) -> None:
    path, base = write(tmp_path, "tt")
    tensors = tuned("tt")
    name = "blocks.0.mlp.fc1_FacTs.weight"
    tensors[name] = tensors[name].roll(RANK, 0)
    save(path, tensors | head())

    is_other(fpet_export.load(path, backbone=base, scale=SCALE, **SAID), wanted("tt"))


@pytest.mark.parametrize("where", ["cifar.yaml", "../configs/cifar.yaml"])
def test_its_yaml_says_the_scale(where: str, tmp_path: Path) -> None:
    path, base = write(tmp_path / "models", "tk")
    config = path.parent / where
    config.parent.mkdir(exist_ok=True)
    config.write_text(yaml.safe_dump({"scale": SCALE, "rank": RANK, "class_num": CLASSES}))

    run = fpet_export.load(path, backbone=base, **SAID)

    assert run.facts()["scale"].value == SCALE
    assert run.facts()["scale"].source == "cifar.yaml"
    refused(path, "--scale", "1.7", "2", backbone=base, scale=2.0, **SAID)
    for changed in ({"rank": 5}, {"class_num": 7}, {"scale": "big"}, {"scale": True}):
        config.write_text(yaml.safe_dump({"scale": SCALE} | changed))
        refused(path, str(next(iter(changed.values()))), backbone=base, **SAID)


def test_what_nobody_says_is_asked_for(tmp_path: Path) -> None:
    path, base = write(tmp_path, "tt")
    refused(path, "--scale", backbone=base, **SAID)
    refused(path, "--normalisation", backbone=base, scale=1.0, heads=2, pool="token")
    refused(path, "--backbone", scale=1.0, **SAID)
    refused(path, "rank", "5", "4", backbone=base, scale=1.0, rank=5, **SAID)
    refused(path, "--scale", "nan", backbone=base, scale=float("nan"), **SAID)
    refused(path, "--alpha", backbone=base, scale=1.0, alpha=2, kind=UsageError, **SAID)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: m.name)
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("tt", "FacTu.weight"),
        ("tt", "blocks.1.mlp.fc2_FacTs.weight"),
        ("tk", "FacTc"),
        ("tk", "head.weight"),
    ],
)
def test_a_damaged_file_is_refused(
    kind: str, name: str, mutation: Mutation, tmp_path: Path
) -> None:
    base = save(tmp_path / "vit.safetensors", backbone())
    damaged(tmp_path, tuned(kind) | head(), mutation, name, backbone=base, scale=1.0, **SAID)


def test_another_depth_is_refused(tmp_path: Path) -> None:
    base = save(
        tmp_path / "vit.pth",
        {name: t for name, t in backbone().items() if not name.startswith("blocks.1.")},
    )
    for kind in KINDS:
        path = save(tmp_path / f"{kind}.pt", tuned(kind) | head())
        refused(path, "--backbone", backbone=base, scale=1.0, **SAID)


def test_inspect_and_export_from_the_command_line(tmp_path: Path) -> None:
    path, base = write(tmp_path, "tk")
    words = [path, "--backbone", base, "--heads", SPEC.heads, "--pool", "token"]
    words += ["--normalisation", NORMALISATION, "--scale", SCALE]

    done = call("inspect", *words)
    assert done.code == 0, done.err
    text = " ".join(done.err.split())
    assert f"fact-tk: low-rank update of q, k, v, proj, fc1, fc2 (rank {RANK})" in text
    assert "everything folds" in text
    exported = call("export", *words, "--merge-block", 0, "-o", tmp_path / "out")
    assert exported.code == 0, exported.err
