"""Images of another size than the weights are for: the positions as timm resamples them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

import engines
import fpet_export
from engines.errors import CheckpointError, UsageError
from engines.imaging.images import to_input
from tests.fpet_export.command_line import call, pixels_of
from tests.fpet_export.tiny import relative

ARCH, SIDE = "vit_tiny_patch16_224", 32
ARGUMENTS: dict[str, Any] = {
    "embed_dim": 64, "depth": 2, "num_heads": 4, "img_size": SIDE, "patch_size": 8,
}  # fmt: skip
SAID: dict[str, Any] = {"heads": 4, "pool": "token", "normalisation": "half"}
NETWORKS: dict[str, dict[str, Any]] = {
    "class token": {},
    "positions of patches alone": {"no_embed_class": True, "reg_tokens": 2},
    "no prefix": {"class_token": False, "global_pool": "avg"},
    "attention pooling": {"class_token": False, "global_pool": "map"},
    "a grid that is not square": {"img_size": (32, 16)},
}
SIZES = [(48, 48), (24, 24), (16, 64), (56, 24)]


def write_model(folder: Path, **changes: Any) -> Any:
    """Write a small timm model with its configuration, and return it."""
    arguments = ARGUMENTS | changes
    model = timm.create_model(ARCH, num_classes=5, **arguments).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    save_file(model.state_dict(), folder / "model.safetensors")
    document = {
        "architecture": ARCH,
        "num_classes": 5,
        "global_pool": arguments.pop("global_pool", "token"),
        "model_args": arguments,
        "pretrained_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic"},
    }
    (folder / "config.json").write_text(json.dumps(document))
    return model


def pixels_for(image: tuple[int, int]) -> np.ndarray:
    return pixels_of(2, side=max(image))[:, : image[0], : image[1]]


def of_timm(model: Any, image: tuple[int, int], pixels: np.ndarray) -> np.ndarray:
    """The logits of timm's own model after it was told the size of its images."""
    model.set_input_size(img_size=image)
    images = torch.from_numpy(pixels.astype(np.float32) / 255).double().permute(0, 3, 1, 2)
    with torch.inference_mode():
        found: np.ndarray = model.double()((images - 0.5) / 0.5).numpy()
    return found


@pytest.mark.parametrize("image", SIZES, ids=str)
@pytest.mark.parametrize("network", NETWORKS)
def test_logits_for_another_size_are_timms(
    network: str, image: tuple[int, int], tmp_path: Path
) -> None:
    model, pixels = write_model(tmp_path, **NETWORKS[network]), pixels_for(image)

    run = fpet_export.load(tmp_path, image=image)

    expected = of_timm(model, image, pixels)
    assert relative(run.outputs(pixels).logits, expected) < 1e-12
    assert relative(run.fold().freeze(batch=2).outputs(pixels).logits, expected) < 1e-5
    assert run.preprocessing.size == image
    assert "resampled as timm does" in run.facts()["backbone image"].source


@pytest.mark.parametrize("merge_block", [None, 0])
def test_the_graph_takes_a_rectangle(merge_block: int | None, tmp_path: Path) -> None:
    write_model(tmp_path)
    image, pixels = (24, 56), pixels_for((24, 56))
    run = fpet_export.load(tmp_path, image=image, merge_block=merge_block)
    frozen = run.fold().freeze(batch=2)
    graph = frozen.to_onnx(tmp_path / "model.onnx")
    with engines.open(graph) as engine:
        assert engine.inputs[0].shape == (2, 3, *image)
        (found,) = engine.run({"images": to_input(pixels, frozen.preprocessing)}).values()
    assert relative(found, run.outputs(pixels).logits) < 1e-5


def test_the_own_size_changes_nothing_and_is_no_resampling(tmp_path: Path) -> None:
    write_model(tmp_path)
    own = fpet_export.load(tmp_path)
    said = fpet_export.load(tmp_path, image=(SIDE, SIDE))
    assert torch.equal(own.model.pos_embed, said.model.pos_embed)
    assert "resampled" not in said.facts()["backbone image"].source


def test_without_a_configuration_rows_that_fit_are_taken_as_they_lie(tmp_path: Path) -> None:
    model = write_model(tmp_path)
    (tmp_path / "config.json").unlink()
    path = tmp_path / "model.safetensors"

    stated = fpet_export.load(path, image=(16, 64), **SAID)
    assert torch.equal(stated.model.pos_embed, model.pos_embed)

    pixels = pixels_for((48, 24))
    resampled = fpet_export.load(path, image=(48, 24), **SAID)
    expected = of_timm(model, (48, 24), pixels)
    assert relative(resampled.outputs(pixels).logits, expected) < 1e-12


def test_an_architecture_may_have_been_trained_at_another_size(tmp_path: Path) -> None:
    """timm's name says 224; the rows say which size the file is for, and --image where they fit."""
    arguments: dict[str, Any] = {"img_size": 64, "num_classes": 5}
    model = timm.create_model(ARCH, **arguments).eval()
    save_file(model.state_dict(), tmp_path / "m.safetensors")
    path, said = tmp_path / "m.safetensors", {"arch": ARCH, "normalisation": "half"}

    assert fpet_export.load(path, image=(64, 64), **said).model.spec.grid == (4, 4)
    with pytest.raises(CheckpointError, match="17 rows") as refused:
        fpet_export.load(path, **said)
    assert "--image HxW" in refused.value.fix

    image, pixels = (96, 64), pixels_for((96, 64))
    run = fpet_export.load(path, image=image, **said)
    assert relative(run.outputs(pixels).logits, of_timm(model, image, pixels)) < 1e-12


@pytest.mark.parametrize("image", [(30, 32), (0, 0), (7, 8)])
def test_images_of_no_whole_number_of_patches_are_refused(
    image: tuple[int, int], tmp_path: Path
) -> None:
    write_model(tmp_path)
    with pytest.raises(UsageError, match="no whole number of patches of 8x8"):
        fpet_export.load(tmp_path, image=image)


def test_the_command_line_exports_it(tmp_path: Path) -> None:
    write_model(tmp_path)
    words = ("export", tmp_path, "--image", "24x56", "-o", tmp_path / "out", "--json")
    done = call(*words)
    assert done.code == 0, done.err
    manifest = done.document()["manifest"]
    assert manifest["model"]["grid"] == [3, 7] and manifest["preprocessing"]["size"] == [24, 56]
    assert "resampled as timm does" in manifest["facts"]["backbone image"]
    assert call(*words, "--force", "--image", "25x56").error()["exit_code"] == 2
