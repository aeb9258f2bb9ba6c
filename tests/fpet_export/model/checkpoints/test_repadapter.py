"""RepAdapter runs against a loop written from the paper's formulas."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import fpet_export
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

RANK, SCALE = 8, 0.6
READERS = {"adapter_attn": "attn.qkv", "adapter_mlp": "mlp.fc1"}


def tuned(groups: int = 2, adapters: tuple[str, ...] = tuple(READERS)) -> Tensors:
    draw = Drawing()
    found: Tensors = {}
    for index in range(SPEC.depth):
        for adapter in adapters:
            name = f"blocks.{index}.{adapter}."
            found |= {
                name + "conv_A.weight": draw(RANK, WIDTH)[..., None],
                name + "conv_A.bias": draw(RANK),
                name + "conv_B.weight": draw(WIDTH, RANK // groups)[..., None],
                name + "conv_B.bias": draw(WIDTH),
            }
    return found


def before(
    tensors: Tensors, groups: int, scale: float = SCALE
) -> Callable[[str, np.ndarray], np.ndarray]:
    """What an adapter gives qkv and fc1 to read, output channel by output channel."""

    def change(name: str, x: np.ndarray) -> np.ndarray:
        block = name.rpartition(".")[0].rpartition(".")[0]
        for adapter, reader in READERS.items():
            path = f"{block}.{adapter}."
            if not name.endswith(reader) or path + "conv_A.weight" not in tensors:
                continue
            a, b = (wide(tensors[f"{path}conv_{one}.weight"])[..., 0] for one in "AB")
            hidden = x @ a.T + wide(tensors[path + "conv_A.bias"])
            out = np.empty_like(x)
            for channel in range(WIDTH):
                group = channel // (WIDTH // groups)
                own = hidden[:, group * RANK // groups : (group + 1) * RANK // groups]
                out[:, channel] = own @ b[channel]
            return np.asarray(x + scale * (out + wide(tensors[path + "conv_B.bias"])))
        return x

    return change


def wanted(groups: int = 2, adapters: tuple[str, ...] = tuple(READERS)) -> np.ndarray:
    return expected(backbone() | head(), before=before(tuned(groups, adapters), groups))


def write(folder: Path, tensors: Tensors, name: str = "cifar.pt") -> tuple[Path, Path]:
    base = save(folder / "vit.safetensors", backbone())
    return save(folder / name, tensors | head()), base


@pytest.mark.parametrize(
    ("groups", "adapters"),
    [(2, ("adapter_attn", "adapter_mlp")), (2, ("adapter_attn",)), (1, ("adapter_mlp",))],
)
def test_it_is_what_the_paper_says(groups: int, adapters: tuple[str, ...], tmp_path: Path) -> None:
    path, base = write(tmp_path, tuned(groups, adapters))
    assert formats(path) == ["repadapter"]

    run = fpet_export.load(path, backbone=base, scale=SCALE, **SAID)

    facts = run.facts()
    assert (facts["rank"].value, facts["groups"].value) == (RANK, groups)
    proven(run, wanted(groups, adapters), tmp_path)
    is_other(fpet_export.load(path, backbone=base, scale=1.0, **SAID), wanted(groups, adapters))


def test_groups_in_another_order_are_another_model(tmp_path: Path) -> None:
    tensors = tuned()
    name = "blocks.0.adapter_attn.conv_B.weight"
    path, base = write(tmp_path, tensors | {name: tensors[name].roll(WIDTH // 2, 0)})
    is_other(fpet_export.load(path, backbone=base, scale=SCALE, **SAID), wanted())


def test_its_yaml_lies_in_configs(tmp_path: Path) -> None:
    path, _ = write(tmp_path / "models" / "repblock", tuned())
    config = tmp_path / "configs" / "repblock" / "cifar.yaml"
    config.parent.mkdir(parents=True)
    fields: dict[str, Any] = {"name": "cifar", "class_num": CLASSES, "scale": SCALE}
    config.write_text(yaml.safe_dump(fields))
    said = SAID | {"backbone": path.parent / "vit.safetensors"}

    assert fpet_export.load(path, **said).facts()["scale"].value == SCALE
    config.write_text(yaml.safe_dump(fields | {"name": "dtd"}))
    refused(path, "'cifar'", "'dtd'", **said)
    config.write_text(yaml.safe_dump(fields | {"class_num": 100}))
    refused(path, "5 classes", "100", **said)
    (config.parent.parent / "cifar.yaml").write_text(yaml.safe_dump(fields))
    refused(path, "2 configurations", "--config", **said)
    config.unlink()
    (config.parent.parent / "cifar.yaml").unlink()
    refused(path, "nothing says the scale", "--scale", **said)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: m.name)
@pytest.mark.parametrize(
    "name",
    [
        "blocks.0.adapter_attn.conv_B.weight",
        "blocks.1.adapter_mlp.conv_A.weight",
        "blocks.1.adapter_attn.conv_A.bias",
    ],
)
def test_a_damaged_file_is_refused(name: str, mutation: Mutation, tmp_path: Path) -> None:
    base = save(tmp_path / "vit.safetensors", backbone())
    damaged(tmp_path, tuned() | head(), mutation, name, backbone=base, scale=1.0, **SAID)


def test_inspect_and_export_from_the_command_line(tmp_path: Path) -> None:
    path, base = write(tmp_path, tuned())
    words = [path, "--backbone", base, "--heads", SPEC.heads, "--pool", "token"]
    words += ["--normalisation", NORMALISATION, "--scale", SCALE]

    done = call("inspect", *words)

    assert done.code == 0, done.err
    text = " ".join(done.err.split())
    assert f"repadapter: low-rank map of the input of qkv, fc1 (rank {RANK})" in text
    assert "everything folds" in text
