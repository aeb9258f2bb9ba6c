"""Files and folders with the names of timm's EVA family, and adapters of PEFT on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import fpet_export
from engines.errors import CheckpointError
from fpet_export.model.backbones._eva_names import as_vits
from tests.fpet_export.command_line import call
from tests.fpet_export.model.backbones.eva_models import (
    CLASSES,
    DEPTH,
    NAMES,
    PATCH,
    answers_of,
    images_of,
    model_of,
)
from tests.fpet_export.tiny import relative

APART, BESIDE = "eva02_base_patch14_224", "vit_small_plus_patch16_dinov3_qkvb"
Tensors = dict[str, torch.Tensor]


def tensors_of(name: str) -> Tensors:
    return {n: t.contiguous() for n, t in model_of(name).state_dict().items()}


def config_of(name: str, **changes: Any) -> dict[str, Any]:
    """What `push_to_hf_hub` writes of the small model."""
    arguments = {"embed_dim": 64, "depth": DEPTH, "num_heads": 4, "patch_size": PATCH}
    arguments |= {"img_size": 4 * PATCH} | NAMES[name] | changes
    pixels = {"mean": [0.5] * 3, "std": [0.5] * 3, "input_size": [3, 4 * PATCH, 4 * PATCH]}
    return {
        "architecture": name,
        "num_classes": CLASSES,
        "model_args": arguments,
        "pretrained_cfg": pixels | {"fixed_input_size": True},
    }


def folder_of(name: str, path: Path, tensors: Tensors | None = None, **changes: Any) -> Path:
    path.mkdir()
    save_file(tensors or tensors_of(name), path / "model.safetensors")
    (path / "config.json").write_text(json.dumps(config_of(name, **changes)))
    return path


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_of_timms_hub_is_the_model(name: str, tmp_path: Path) -> None:
    wanted = answers_of(model_of(name), images_of())["logits"]

    run = fpet_export.load(folder_of(name, tmp_path / "model"))

    pixels = (255 * images_of()).round().astype("uint8").transpose(0, 2, 3, 1)
    rounded = pixels.transpose(0, 3, 1, 2).astype("float32") / 255
    assert (
        relative(run.outputs(pixels).logits, answers_of(model_of(name), rounded)["logits"]) < 1e-6
    )
    assert wanted.shape == (3, CLASSES)
    rotary = run.model.spec.rotary
    if rotary is not None:
        assert str(run.facts()["backbone positions"]) == f"{rotary.describe()} (config.json)"


def test_the_command_line_merges_and_exports_one(tmp_path: Path) -> None:
    folder = folder_of(BESIDE, tmp_path / "model")

    shown = call("inspect", folder)
    done = call("export", folder, "--merge", "fpet@1", "--image", "48x32", "-o", tmp_path / "out")

    assert shown.code == 0 and "rotary, temperature 100, over halves of a head" in shown.err
    assert done.code == 0, done.err


def refused(path: Path, *words: str, **said: Any) -> None:
    with pytest.raises(CheckpointError) as caught:
        fpet_export.load(path, normalisation="half", **said)
    for word in words:
        assert word in str(caught.value), f"{word!r} is not in:\n{caught.value}"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (APART, "names of timm's EVA family"),
        ("vit_small_patch16_dinov3", "names of timm's EVA family"),
        ("eva_giant_patch14_224", "names of timm's EVA family"),
        ("vit_small_patch16_rope_mixed_ape_224", "names of timm's EVA family"),
    ],
)
def test_a_file_alone_is_asked_for_its_architecture(name: str, words: str, tmp_path: Path) -> None:
    torch.save(tensors_of(name), tmp_path / "model.pth")

    refused(tmp_path / "model.pth", words, "--arch NAME", heads=4)


def test_a_file_without_positions_is_asked_for_its_architecture(tmp_path: Path) -> None:
    tensors = as_vits(tensors_of("vit_small_patch16_dinov3"))
    torch.save(tensors, tmp_path / "model.pth")

    refused(tmp_path / "model.pth", "pos_embed is missing", "--arch NAME", heads=4)


def test_another_family_is_not_taken_for_it(tmp_path: Path) -> None:
    """The tensors of EVA-02 fit a plain ViT of timm, whose answers would be others."""
    name = "vit_small_patch16_rope_ape_224"
    folder = folder_of(name, tmp_path / "model")
    config = config_of(name) | {"architecture": "vit_small_patch16_224"}
    config["model_args"] |= {"init_values": 1e-5}
    (folder / "config.json").write_text(json.dumps(config))

    refused(folder, "none of timm's EVA family")


@pytest.mark.parametrize(
    ("name", "lost", "words"),
    [
        (BESIDE, "blocks.1.attn.q_bias", "v_bias"),
        (BESIDE, "blocks.1.attn.v_bias", "q_bias"),
        (BESIDE, "blocks.0.gamma_1", "layer scale is on"),
        (BESIDE, "blocks.1.gamma_2", "ls2.gamma"),
        (APART, "blocks.1.attn.k_proj.weight", "attn.q_proj.weight"),
        (APART, "blocks.1.attn.v_proj.bias", "attn.q_proj.bias"),
        (APART, "blocks.1.mlp.norm.weight", "mlp.norm.weight"),
        (APART, "blocks.0.mlp.norm.weight", "mlp norm is on"),
        (APART, "pos_embed", "absolute positions is on"),
        ("eva02_base_patch16_clip_224", "blocks.2.attn.norm.bias", "attn.norm.bias"),
        ("vit_small_patch16_rope_mixed_224", "rope.freqs", "rope.freqs"),
    ],
)
def test_a_folder_that_lost_a_tensor_is_refused(
    name: str, lost: str, words: str, tmp_path: Path
) -> None:
    tensors = tensors_of(name)
    del tensors[lost]

    refused(folder_of(name, tmp_path / "model", tensors), words)


def test_a_bias_of_keys_is_refused_where_there_is_none(tmp_path: Path) -> None:
    tensors = as_vits(tensors_of(BESIDE))
    fine = folder_of(BESIDE, tmp_path / "fine", tensors)
    assert fpet_export.load(fine).model.spec.qkv_bias

    tensors["blocks.1.attn.qkv.bias"][64:128] = 0.5

    refused(folder_of(BESIDE, tmp_path / "odd", tensors), "blocks.1.attn has a bias of the keys")


@pytest.mark.parametrize(
    ("key", "value"),
    [("rope_type", "mrope"), ("use_post_norm", True), ("class_token", None)],
)
def test_arguments_of_the_family_are_obeyed_or_refused(
    key: str, value: Any, tmp_path: Path
) -> None:
    refused(
        folder_of(APART, tmp_path / "model", **{key: value, "pool": "x"}), "model_args has pool"
    )
    folder = folder_of(APART, tmp_path / "other", **{key: value})
    if value is None:
        assert fpet_export.load(folder).model.spec.prefix == ("cls",)
    else:
        refused(folder, key)


@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], ["k_proj", "fc2"]], ids=str)
def test_an_adapter_of_peft_names_the_three_layers(targets: list[str], tmp_path: Path) -> None:
    backbone = folder_of(APART, tmp_path / "model")
    folder = tmp_path / "adapter"
    folder.mkdir()
    settings = {
        "peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": targets,
        "modules_to_save": ["head"], "bias": "none", "task_type": None,
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    own = tensors_of(APART)
    generator = torch.Generator().manual_seed(0)
    adapter, merged = {}, dict(own)
    for name, weight in own.items():
        module = name.removesuffix(".weight")
        if name == module or module.rpartition(".")[2] not in targets:
            continue
        down = torch.randn(4, weight.shape[1], generator=generator)
        up = 0.1 * torch.randn(len(weight), 4, generator=generator)
        adapter[f"base_model.model.{module}.lora_A.weight"] = down
        adapter[f"base_model.model.{module}.lora_B.weight"] = up
        merged[name] = weight + 2 * up @ down
    for leaf in ("weight", "bias"):
        adapter[f"base_model.model.head.{leaf}"] = own[f"head.{leaf}"]
    save_file(adapter, folder / "adapter_model.safetensors")
    model = model_of(APART)
    model.load_state_dict(merged)
    pixels = (255 * images_of()).round().astype("uint8")
    wanted = answers_of(model, pixels.astype("float32") / 255)["logits"]

    run = fpet_export.load(folder, backbone=str(backbone))

    found = run.outputs(pixels.transpose(0, 2, 3, 1)).logits
    assert relative(found, wanted) < 1e-6
    frozen = run.fold().freeze(batch=3).outputs(pixels.transpose(0, 2, 3, 1))
    assert relative(frozen.logits, wanted) < 1e-5
