"""Sets of weights in one file, prefixes of names, and tensors that are not floats."""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from engines.errors import CheckpointError
from fpet_export.model import backbones, state_dicts
from fpet_export.model.backbones import BackboneOptions
from fpet_export.model.backbones.random_weights import draw
from fpet_export.model.facts import Fact
from tests.fpet_export.tiny import spec_of

SPEC = spec_of(depth=1)
ONE, OTHER = draw(SPEC, 0), draw(SPEC, 1)
ANCHOR = ["patch_embed.proj.weight"]


def prefixed(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def written(folder: Path, content: object, name: str = "vit.pth") -> Path:
    torch.save(content, folder / name)
    return folder / name


def is_one(found: state_dicts.StateDict, wanted: dict[str, torch.Tensor]) -> bool:
    return set(found.tensors) == set(wanted) and all(
        torch.equal(found.tensors[name], wanted[name]) for name in wanted
    )


def refusal(path: Path, weights: str | None = None) -> str:
    with pytest.raises(CheckpointError) as caught:
        state_dicts.read(path, ANCHOR, weights=weights)
    return str(caught.value)


# -- prefixes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "prefix",
    [
        "module.",
        "model.",
        "_orig_mod.",
        "timm_model.",
        "backbone.",
        "vit.",
        "encoder.",
        "module.model.",
        "_orig_mod.module.",
        "visual.trunk.",
        "net.vit.backbone.",
    ],
)
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
def test_a_common_prefix_is_stripped_and_said(
    prefix: str, wrapper: str | None, tmp_path: Path
) -> None:
    content: Any = prefixed(prefix, ONE)
    path = written(tmp_path, content if wrapper is None else {wrapper: content, "epoch": 3})

    found = state_dicts.read(path, ANCHOR)

    assert is_one(found, ONE)
    assert found.facts["prefix"] == Fact(prefix, "stripped from every name in vit.pth")
    assert ("weights" in found.facts) == (wrapper is not None)


def test_nothing_is_said_where_nothing_was_chosen(tmp_path: Path) -> None:
    assert state_dicts.read(written(tmp_path, ONE), ANCHOR).facts == {}


def test_tensors_outside_the_prefix_are_refused_with_a_command_that_runs(tmp_path: Path) -> None:
    """They may be part of the model, such as adapters; so they are never left out silently."""
    content = prefixed("model.", ONE) | {"criterion.weight": torch.ones(2)}
    path = written(tmp_path, {"state_dict": content}, "it's.ckpt")
    message = refusal(path)
    assert "1 tensor outside 'model.'" in message and "criterion.weight" in message

    command = message[message.index("python -c") :]
    subprocess.run([sys.executable, *shlex.split(command)[1:]], check=True, cwd=tmp_path)

    assert is_one(state_dicts.read(tmp_path / "it's-vit.pth", ANCHOR), ONE)


# -- sets of weights ---------------------------------------------------------------------------

SETS: list[tuple[dict[str, Any], tuple[str, str]]] = [
    ({"state_dict": ONE, "state_dict_ema": OTHER}, ("raw", "ema")),
    ({"model": ONE, "model_ema": OTHER, "epoch": 1}, ("raw", "ema")),
    ({"model": ONE, "ema": OTHER}, ("raw", "ema")),
    ({"student": ONE, "teacher": OTHER}, ("student", "teacher")),
    ({"student": prefixed("module.backbone.", ONE), "teacher": OTHER}, ("student", "teacher")),
    (
        prefixed("student.backbone.", ONE) | prefixed("teacher.backbone.", OTHER),
        ("student", "teacher"),
    ),
    (
        {"state_dict": prefixed("model.", ONE) | prefixed("ema_model.module.", OTHER)},
        ("raw", "ema"),
    ),
    ({"encoder": ONE, "target_encoder": OTHER}, ("encoder", "target_encoder")),
    ({"checkpoint": {"model": ONE, "model_ema": OTHER}}, ("raw", "ema")),
]


@pytest.mark.parametrize(("content", "names"), SETS, ids=[" ".join(names) for _, names in SETS])
def test_which_weights_is_asked_and_obeyed(
    content: dict[str, Any], names: tuple[str, str], tmp_path: Path
) -> None:
    path = written(tmp_path, content)
    message = refusal(path)
    assert "2 sets of weights that differ" in message
    assert all(f"--weights {name}" in message for name in names)

    for name, wanted in zip(names, (ONE, OTHER), strict=True):
        found = state_dicts.read(path, ANCHOR, weights=name)
        assert is_one(found, wanted)
        assert found.facts["weights"].value == name
        assert name in found.names


def test_an_unknown_set_is_refused_with_what_there_is(tmp_path: Path) -> None:
    message = refusal(written(tmp_path, {"model": ONE, "model_ema": OTHER}), "teacher")

    assert "'teacher' is none of" in message and "raw (model), ema (model_ema)" in message


def test_equal_sets_need_no_choice(tmp_path: Path) -> None:
    copied = {name: tensor.clone() for name, tensor in ONE.items()}
    found = state_dicts.read(written(tmp_path, {"teacher": ONE, "student": copied}), ANCHOR)

    assert is_one(found, ONE)
    assert "equal" in found.facts["weights"].source


def test_one_value_makes_them_differ(tmp_path: Path) -> None:
    copied = {name: tensor.clone() for name, tensor in ONE.items()}
    copied["norm.bias"][3] += 1e-3

    assert "differ" in refusal(written(tmp_path, {"teacher": ONE, "student": copied}))


def test_what_training_keeps_beside_the_weights_is_passed_over(tmp_path: Path) -> None:
    """timm's and DeiT's scripts save their arguments and the optimizer's state too."""
    content = {
        "model": ONE,
        "args": argparse.Namespace(lr=1e-3),
        "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": []},
        "dino_loss": {"center": torch.ones(1, 4)},
        "epoch": 7,
    }

    found = state_dicts.read(written(tmp_path, content), ANCHOR)

    assert is_one(found, ONE)
    assert found.facts["weights"] == Fact("raw", "model in vit.pth")


HIDDEN: list[dict[str, Any]] = [
    {"model": {**ONE, "_extra_state": None}, "model_ema": OTHER},
    {**ONE, "state_dict_ema": OTHER},
    {**ONE, "epoch": 3, "ema": OTHER},
    {"state_dict": ONE, "ema": [OTHER]},
    {"state_dict": ONE, "callbacks": {"EMA": {"state": {"shadow": {"params": OTHER}}}}},
]


@pytest.mark.parametrize("content", HIDDEN, ids=["extra", "flat", "epoch", "list", "deep"])
def test_no_set_hides_behind_its_neighbours(content: dict[str, Any], tmp_path: Path) -> None:
    """Else the other one would be taken without a question."""
    message = refusal(written(tmp_path, content))

    assert "2 sets of weights that differ" in message
    assert "--weights raw" in message and "--weights ema" in message


def test_a_set_with_something_else_in_it_is_cut_out_by_the_command(tmp_path: Path) -> None:
    path = written(tmp_path, {**ONE, "epoch": 3, "state_dict_ema": OTHER})
    assert is_one(state_dicts.read(path, ANCHOR, weights="ema"), OTHER)
    message = refusal(path, "raw")
    assert "tensors beside 'epoch', which is int" in message

    command = message[message.index("python -c") :]
    subprocess.run([sys.executable, *shlex.split(command)[1:]], check=True, cwd=tmp_path)

    assert is_one(state_dicts.read(tmp_path / "vit-vit.pth", ANCHOR), ONE)


def test_the_only_set_is_refused_where_another_one_is_asked_for(tmp_path: Path) -> None:
    path = written(tmp_path, {"model_ema": OTHER})
    assert is_one(state_dicts.read(path, ANCHOR, weights="ema"), OTHER)

    assert "holds ema weights alone (model_ema)" in refusal(path, "raw")


def test_a_set_with_a_prefix_and_one_without_lie_in_one_dictionary(tmp_path: Path) -> None:
    path = written(tmp_path, prefixed("module.", ONE) | OTHER)
    message = refusal(path)
    assert "--weights module." in message and "--weights unprefixed" in message

    assert is_one(state_dicts.read(path, ANCHOR, weights="module."), ONE)
    assert is_one(state_dicts.read(path, ANCHOR, weights="unprefixed"), OTHER)


# -- files and names ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "model_best.pth.tar", "B.PTH", "last.ckpt", "vit.pt"]
)
def test_every_ending_of_pytorch_is_read(name: str, tmp_path: Path) -> None:
    path = written(tmp_path, {"state_dict": ONE}, name)

    found = backbones.read(str(path), BackboneOptions(heads=2, pool="token"))

    assert found.facts["weights"].value == "raw"
    assert torch.equal(found.weights["pos_embed"], ONE["pos_embed"])


@pytest.mark.parametrize("name", ["B.SAFETENSORS", "model.bin", "vit.pth"])
def test_safetensors_are_known_by_their_bytes(name: str, tmp_path: Path) -> None:
    save_file(ONE, tmp_path / name)

    assert is_one(state_dicts.read(tmp_path / name, ANCHOR), ONE)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("vit.embeddings.patch_embeddings.projection.weight", "Hugging Face's names"),
        ("base_model.model.vit.layer.0.query.lora_A.weight", "Hugging Face PEFT"),
        ("conv_proj.weight", "torchvision's names"),
        ("visual.class_embedding", "CLIP's own names"),
        ("layers.0.blocks.0.norm1.weight", "another kind of network"),
    ],
)
def test_the_names_of_other_projects_are_recognised(name: str, words: str, tmp_path: Path) -> None:
    path = written(tmp_path, {name: torch.ones(4)})

    with pytest.raises(CheckpointError) as caught:
        backbones.read(str(path))
    assert words in str(caught.value) and name in str(caught.value)


def test_a_folder_names_the_file_to_give(tmp_path: Path) -> None:
    path = written(tmp_path, ONE)

    with pytest.raises(CheckpointError) as caught:
        backbones.read(str(tmp_path))
    assert f"--backbone {path}" in str(caught.value)


def test_a_tensor_of_masked_pretraining_is_left_out_with_a_word(tmp_path: Path) -> None:
    path = written(tmp_path, ONE | {"mask_token": torch.zeros(1, 64)})

    found = backbones.read(str(path), BackboneOptions(heads=2, pool="token"))

    assert found.facts["left out"].value == "mask_token"


# -- kinds of tensors --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dtype",
    [torch.int8, torch.uint8, torch.int32, torch.bool, torch.float8_e4m3fn, torch.float8_e5m2],
    ids=str,
)
def test_a_tensor_that_is_not_float_is_named_and_never_cast(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    name = "blocks.0.attn.qkv.weight"
    path = written(tmp_path, ONE | {name: ONE[name].to(dtype)})

    message = refusal(path)

    assert f"{name} holds {str(dtype).removeprefix('torch.')}" in message
    assert "quantized" in message


def test_a_quantized_file_is_refused(tmp_path: Path) -> None:
    name = "blocks.0.attn.qkv.weight"
    content = ONE | {name: ONE[name].to(torch.int8), "blocks.0.attn.qkv.SCB": torch.ones(192)}

    assert f"{name} holds int8" in refusal(written(tmp_path, content))


def test_complex_numbers_are_refused(tmp_path: Path) -> None:
    content = ONE | {"pos_embed": ONE["pos_embed"].to(torch.complex64)}

    assert "pos_embed is not a plain tensor" in refusal(written(tmp_path, content))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_other_floats_are_read_and_said(dtype: torch.dtype, tmp_path: Path) -> None:
    content = {name: tensor.to(dtype) for name, tensor in ONE.items()}
    path = written(tmp_path, content)

    found = backbones.read(str(path), BackboneOptions(heads=2, pool="token"))

    assert found.facts["stored as"] == Fact(str(dtype).removeprefix("torch."), "vit.pth")
    for name, tensor in found.weights.items():
        assert torch.equal(tensor, content[name].float())


def test_a_value_beyond_float32_is_refused_and_does_not_become_infinite(tmp_path: Path) -> None:
    wide = ONE["norm.bias"].double()
    wide[0] = 1e39

    with pytest.raises(CheckpointError, match=r"norm\.bias holds values in float64"):
        backbones.read(
            str(written(tmp_path, ONE | {"norm.bias": wide})),
            BackboneOptions(heads=2, pool="token"),
        )
