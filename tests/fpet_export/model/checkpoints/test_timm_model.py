"""Whole models of timm as runs: every way they are saved, against timm's own logits."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

import fpet_export
from engines.errors import CheckpointError, FpetError, TrustError, UsageError
from engines.manifest import read_manifest
from engines.storage import sha256_of
from fpet_export.model import checkpoints
from tests.fpet_export.authors_run import write_run
from tests.fpet_export.command_line import call
from tests.fpet_export.tiny import relative

ARCH = "vit_tiny_patch16_224"
ARGUMENTS: dict[str, Any] = {"embed_dim": 64, "depth": 2, "num_heads": 2, "img_size": 64}
NAMES = ["cat", "dog", "owl", "emu", "yak"]
CONFIG: dict[str, Any] = {
    "architecture": ARCH,
    "num_classes": 5,
    "global_pool": "token",
    "model_args": ARGUMENTS,
    "pretrained_cfg": {
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "crop_pct": 0.9,
        "interpolation": "bicubic",
    },
    "label_names": NAMES,
}
SAID: dict[str, Any] = {"heads": 2, "pool": "token", "normalisation": "half"}
Tensors = dict[str, torch.Tensor]


def model_of(seed: int = 0, **changes: Any) -> torch.nn.Module:
    """A small timm model, no weight of which has a neutral value."""
    arguments = ARGUMENTS | {"num_classes": 5} | changes
    model: torch.nn.Module = timm.create_model(arguments.pop("name", ARCH), **arguments).eval()
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


def pixels_of(count: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 64, 64, 3), dtype=np.uint8)


def logits_of(model: torch.nn.Module, pixels: np.ndarray) -> np.ndarray:
    """timm's own logits in float64 of pixels normalised by 0.5."""
    images = torch.from_numpy(pixels).double().permute(0, 3, 1, 2) / 255
    with torch.inference_mode():
        found: np.ndarray = model.double()((images - 0.5) / 0.5).numpy()
    return found


def refused(kind: type[FpetError], call: Callable[[], Any], *words: str) -> None:
    with pytest.raises(FpetError) as caught:
        call()
    assert type(caught.value) is kind, caught.value
    for word in words:
        assert word in str(caught.value), f"{word!r} is not in:\n{caught.value}"


def ema_of(tensors: Tensors) -> Tensors:
    return {name: tensor + 0.25 for name, tensor in tensors.items()}


SAVED: dict[str, Callable[[Tensors], Any]] = {
    "model.safetensors": dict,
    "cifar.pth": dict,
    "cifar.pt": dict,
    "pytorch_model.bin": dict,
    "model_best.pth.tar": lambda t: {"state_dict": t, "arch": ARCH, "epoch": 7},
    "lightning.ckpt": lambda t: {
        "state_dict": {f"model.{name}": tensor for name, tensor in t.items()},
        "epoch": 7,
        "hyper_parameters": {"lr": 1e-3},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3)}}}],
    },
    "parallel.pth": lambda t: {"model": {f"module.{name}": v for name, v in t.items()}},
}


def save(folder: Path, name: str, tensors: Tensors) -> Path:
    path = folder / name
    content = SAVED[name](tensors)
    if name.endswith(".safetensors"):
        save_file(content, path)
    else:
        torch.save(content, path)
    return path


@pytest.mark.parametrize("name", SAVED)
def test_a_whole_model_is_a_run_whatever_saved_it(name: str, tmp_path: Path) -> None:
    model, pixels = model_of(), pixels_of()
    path = save(tmp_path, name, model.state_dict())

    run = fpet_export.load(path, **SAID)

    assert run.checkpoint.method == "none" and run.quality == "trained"
    assert not run.merge_plan().merges
    assert "nothing beside the file says it" in run.facts()["backbone resize"].source
    expected = logits_of(model, pixels)
    assert relative(run.outputs(pixels).logits, expected) < 1e-5
    assert relative(run.outputs(pixels[:, ::-1]).logits, expected) > 1e-3


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("deit_tiny_distilled_patch16_224", {}, {"heads": 2}),
        ("vit_base_patch14_reg4_dinov2", {"patch_size": 16}, {"heads": 2, "pool": "token"}),
        (ARCH, {"class_token": False, "global_pool": "avg"}, {"heads": 2, "pool": "avg"}),
        (ARCH, {"img_size": (32, 128)}, {"heads": 2, "pool": "token", "image": (32, 128)}),
    ],
    ids=["distilled", "registers", "mean", "not square"],
)
def test_other_shapes_of_a_whole_model(
    name: str, changes: dict[str, Any], said: dict[str, Any], tmp_path: Path
) -> None:
    model = model_of(name=name, **changes)
    path = save(tmp_path, "cifar.pth", model.state_dict())

    run = fpet_export.load(path, normalisation="half", **said)

    pixels = pixels_of().reshape(3, *run.model.spec.image, 3)
    assert relative(run.outputs(pixels).logits, logits_of(model, pixels)) < 1e-5


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_a_folder_of_timms_hub_says_everything(file: str, tmp_path: Path) -> None:
    model, pixels = model_of(), pixels_of()
    save(tmp_path, file, model.state_dict())
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))

    run = fpet_export.load(tmp_path)

    assert run.checkpoint.name == tmp_path.name
    assert run.preprocessing.mean == (0.5, 0.5, 0.5) and run.preprocessing.crop == 0.9
    assert run.checkpoint.labels is not None and run.checkpoint.labels.value == tuple(NAMES)
    assert run.known_classes.source == "label_names in config.json"
    assert (
        str(run.facts()["backbone resize"])
        == "bicubic, the centre 0.9 of it as 64x64 (config.json)"
    )
    assert relative(run.outputs(pixels).logits, logits_of(model, pixels)) < 1e-5


def test_of_two_files_the_one_is_taken_that_timm_takes(tmp_path: Path) -> None:
    model, pixels = model_of(), pixels_of()
    save(tmp_path, "model.safetensors", model.state_dict())
    save(tmp_path, "pytorch_model.bin", model_of(1).state_dict())
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))

    run = fpet_export.load(tmp_path)

    assert "before pytorch_model.bin" in str(run.facts()["weights file"])
    assert relative(run.outputs(pixels).logits, logits_of(model, pixels)) < 1e-5


def test_the_architecture_may_be_named(tmp_path: Path) -> None:
    model, pixels = timm.create_model(ARCH, num_classes=3, img_size=64).eval(), pixels_of()
    path = save(tmp_path, "cifar.pth", model.state_dict())
    said: dict[str, Any] = {"arch": ARCH, "image": (64, 64), "normalisation": "half"}

    run = fpet_export.load(path, **said)

    assert run.facts()["backbone heads"].source == f"--arch {ARCH}"
    assert relative(run.outputs(pixels).logits, logits_of(model, pixels)) < 1e-5
    other = said | {"arch": "vit_small_patch16_224"}
    refused(CheckpointError, lambda: fpet_export.load(path, **other), "--arch", "384", "192")
    unknown = said | {"arch": "vit_tiny_patch16"}
    refused(CheckpointError, lambda: fpet_export.load(path, **unknown), "has no model", "--arch")
    distilled = said | {"arch": "deit_tiny_distilled_patch16_224"}
    refused(CheckpointError, lambda: fpet_export.load(path, **distilled), "prefix", "dist")


def trained(**options: Any) -> dict[str, Any]:
    """What timm's training script saves of a small model."""
    model_kwargs = {name: value for name, value in ARGUMENTS.items() if name != "img_size"}
    args = {"model": ARCH, "gp": None, "img_size": 64, "model_kwargs": model_kwargs}
    return {"arch": ARCH, "args": Namespace(**args | options), "epoch": 7}


@pytest.mark.parametrize("pool", [None, "avg"])
def test_a_file_of_timms_script_says_its_architecture(pool: str | None, tmp_path: Path) -> None:
    changes: dict[str, Any] = {} if pool is None else {"global_pool": pool}
    model, pixels = model_of(**changes), pixels_of()
    path = tmp_path / "model_best.pth.tar"
    torch.save(trained(gp=pool) | {"state_dict": model.state_dict()}, path)

    run = fpet_export.load(path, normalisation="half")

    assert run.facts()["backbone pool"].source == "arch in model_best.pth.tar"
    assert relative(run.outputs(pixels).logits, logits_of(model, pixels)) < 1e-5


@pytest.mark.parametrize(
    ("options", "said", "words"),
    [
        ({"model": "deit_tiny_patch16_224"}, {}, ("arch in", "args.model")),
        ({}, {"arch": "deit_tiny_patch16_224"}, ("arch in", "--arch")),
        ({"gp": "avg"}, {}, ("pool norm", "arch in")),
        ({"gp": "map"}, {}, ("arch in", "attn_pool")),
        ({"img_size": 48}, {}, ("48x48", "arch in")),
        ({"model_kwargs": {"depth": 2}}, {}, ("width", "192", "64")),
        ({"model_kwargs": [1]}, {}, ("model_kwargs",)),
        ({}, {"pool": "avg"}, ("--pool", "arch in")),
        ({}, {"heads": 4}, ("--heads", "arch in")),
    ],
    ids=str,
)
def test_what_timms_script_says_must_be_so(
    options: dict[str, Any], said: dict[str, Any], words: tuple[str, ...], tmp_path: Path
) -> None:
    path = tmp_path / "last.pth.tar"
    torch.save(trained(**options) | {"state_dict": model_of().state_dict()}, path)
    refused(CheckpointError, lambda: fpet_export.load(path, normalisation="half", **said), *words)


def test_an_architecture_beside_another_configuration_is_refused(tmp_path: Path) -> None:
    save(tmp_path, "model.safetensors", model_of().state_dict())
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))

    fpet_export.load(tmp_path, arch=ARCH)
    refused(
        CheckpointError,
        lambda: fpet_export.load(tmp_path, arch="deit_tiny_patch16_224"),
        ARCH,
        "deit_tiny_patch16_224",
        "--arch",
    )


def test_averaged_weights_are_asked_for(tmp_path: Path) -> None:
    model, pixels = model_of(), pixels_of()
    tensors = model.state_dict()
    path = tmp_path / "last.pth.tar"
    torch.save({"state_dict": tensors, "state_dict_ema": ema_of(tensors)}, path)

    refused(CheckpointError, lambda: fpet_export.load(path, **SAID), "--weights raw", "ema")
    raw = fpet_export.load(path, weights="raw", **SAID).outputs(pixels).logits
    ema = fpet_export.load(path, weights="ema", **SAID).outputs(pixels).logits

    assert relative(raw, logits_of(model, pixels)) < 1e-5
    model.float().load_state_dict(ema_of(tensors))
    assert relative(ema, logits_of(model, pixels)) < 1e-5


def test_a_whole_model_merges_on_request_and_says_so(tmp_path: Path) -> None:
    path = save(tmp_path, "cifar.pth", model_of().state_dict())
    out = tmp_path / "out"
    words = ["--heads", "2", "--pool", "token", "--normalisation", "half", "--merge-block", "0"]

    inspected = call("inspect", str(path), *words)
    exported = call("export", str(path), *words, "-o", str(out))

    assert inspected.code == exported.code == 0, exported.err
    for done in (inspected, exported):
        assert "not trained with this merge" in " ".join(done.err.split())
    manifest = read_manifest(out / "model.onnx")
    assert manifest.model is not None and manifest.model.tokens[0] == 9
    assert "not trained with merging" in manifest.facts["merge block"]
    assert {parent.file for parent in manifest.parents} == {"cifar.pth"}
    plain = call("inspect", str(path), *words[:-2])
    assert plain.code == 0 and "no merging" in plain.err and "not trained" not in plain.err


def test_the_labels_of_a_folder_reach_the_graph(tmp_path: Path) -> None:
    save(tmp_path, "model.safetensors", model_of().state_dict())
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    done = call("export", str(tmp_path), "-o", str(tmp_path / "out"))

    assert done.code == 0, done.err
    assert list(read_manifest(tmp_path / "out" / "model.onnx").labels) == NAMES

    other = tmp_path / "labels.txt"
    other.write_text("\n".join(reversed(NAMES)))
    done = call("export", str(tmp_path), "-o", str(tmp_path / "b"), "--labels", str(other))
    assert done.code == 3 and "label_names in config.json" in " ".join(done.err.split())


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["a", "a", "b", "c", "d"], "calls two classes 'a'"),
        ([f"LABEL_{index}" for index in range(5)], "placeholders"),
    ],
)
def test_labels_that_tell_nothing_apart_are_none(
    names: list[str], words: str, tmp_path: Path
) -> None:
    save(tmp_path, "model.safetensors", model_of().state_dict())
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | {"label_names": names}))

    run = fpet_export.load(tmp_path)

    assert run.checkpoint.labels is None
    assert words in run.facts()["backbone labels"].source


@pytest.mark.parametrize(
    "names", [NAMES[:4], {"0": "a"}, {"a": 0}, "cat", [1, 2, 3, 4, 5]], ids=str
)
def test_labels_of_another_model_are_refused(names: object, tmp_path: Path) -> None:
    save(tmp_path, "model.safetensors", model_of().state_dict())
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | {"label_names": names}))

    refused(CheckpointError, lambda: fpet_export.load(tmp_path), "label_names")


# -- which format a file has -------------------------------------------------------------------


def formats(path: Path) -> list[str]:
    """The formats that recognise a path."""
    from engines import registry

    known: Any = {n: registry.load(checkpoints, n) for n in registry.available(checkpoints)}
    return [name for name, entry in known.items() if entry.recognises(str(path))]


@pytest.mark.parametrize("name", SAVED)
def test_every_file_has_one_format(name: str, tmp_path: Path) -> None:
    path = save(tmp_path, name, model_of().state_dict())
    assert formats(path) == ["timm_model"]
    assert formats(tmp_path) == ["timm_model"]


@pytest.mark.parametrize("bit", [1, 32])
def test_a_run_of_the_authors_code_stays_one(bit: int, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", bit=bit)
    assert formats(Path(run.text)) == formats(run.pth) == formats(run.folder) == ["fpet_run"]
    tensors = torch.load(run.pth, weights_only=True)

    run.rewrite_pth(tensors | model_of().state_dict())  # with adapters in it, or beside it

    assert formats(run.pth) == formats(run.folder) == ["fpet_run"]


def test_what_a_trainer_leaves_beside_a_model_is_no_run(tmp_path: Path) -> None:
    save(tmp_path, "model.safetensors", model_of().state_dict())
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    torch.save({"cpu": torch.get_rng_state()}, tmp_path / "rng_state.pth")
    (tmp_path / "optimizer.pt").write_bytes(b"no archive")

    assert formats(tmp_path) == ["timm_model"]


def test_several_models_in_a_folder_are_named(tmp_path: Path) -> None:
    for name in ("parallel.pth", "cifar.pth"):
        save(tmp_path, name, model_of().state_dict())

    refused(
        CheckpointError,
        lambda: fpet_export.load(tmp_path, **SAID),
        "2 whole models",
        str(tmp_path / "cifar.pth"),
    )


# -- what is refused ---------------------------------------------------------------------------


def without_head(tensors: Tensors) -> Tensors:
    return {name: tensor for name, tensor in tensors.items() if not name.startswith("head")}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without_head, ("no head", "head.weight", "--backbone")),
        (lambda t: t | {"head.bias": torch.full((5,), torch.nan)}, ("head.bias", "NaN")),
        (lambda t: t | {"blocks.1.mlp.fc1.bias": torch.zeros(7)}, ("misshapen", "fc1.bias")),
        (lambda t: t | {"extra.weight": torch.zeros(7)}, ("unexpected", "extra.weight")),
        (lambda t: {n: v for n, v in t.items() if n != "norm.bias"}, ("missing", "norm.bias")),
        (lambda t: t | {"norm.bias": torch.zeros(64, dtype=torch.int8)}, ("int8", "quantized")),
    ],
    ids=["no head", "NaN", "misshapen", "unexpected", "missing", "int8"],
)
def test_a_broken_model_is_refused(
    change: Callable[[Tensors], Tensors], words: tuple[str, ...], tmp_path: Path
) -> None:
    path = save(tmp_path, "cifar.pth", change(model_of().state_dict()))
    refused(CheckpointError, lambda: fpet_export.load(path, **SAID), *words)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"rank": 4}, ("--rank", "whole model")),
        ({"method": "lora"}, ("--method", "whole model")),
        ({"merge_block": 2}, ("merge block 2", "0 to 1")),
    ],
    ids=str,
)
def test_options_of_other_runs_are_refused(
    said: dict[str, Any], words: tuple[str, ...], tmp_path: Path
) -> None:
    path = save(tmp_path, "cifar.pth", model_of().state_dict())
    refused(UsageError, lambda: fpet_export.load(path, **SAID, **said), *words)


def test_another_backbone_beside_a_whole_model_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path, "cifar.pth", model_of().state_dict())
    other = save(tmp_path, "model.safetensors", model_of(1).state_dict())

    fpet_export.load(path, backbone=path, **SAID)
    refused(
        CheckpointError,
        lambda: fpet_export.load(path, backbone=other, **SAID),
        "brings its own backbone",
        "leave --backbone out",
    )


def test_pixels_that_nobody_states_are_asked_for(tmp_path: Path) -> None:
    path = save(tmp_path, "cifar.pth", model_of().state_dict())
    refused(
        CheckpointError,
        lambda: fpet_export.load(path, heads=2, pool="token"),
        "--normalisation",
    )


def test_checksums_beside_a_model_are_verified(tmp_path: Path) -> None:
    path = save(tmp_path, "cifar.pth", model_of().state_dict())
    (tmp_path / "SHA256SUMS").write_text(f"{sha256_of(path)}  cifar.pth\n")
    fpet_export.load(path, **SAID)

    save(tmp_path, "cifar.pth", model_of(1).state_dict())

    refused(TrustError, lambda: fpet_export.load(path, **SAID), "SHA256SUMS")


def test_a_file_that_is_no_model_is_called_what_it_is(tmp_path: Path) -> None:
    damaged, other, resnet = (tmp_path / name for name in ("a.ckpt", "b.pt", "c.safetensors"))
    save_file({"conv1.weight": torch.zeros(2), "layer1.0.conv1.weight": torch.ones(2)}, resnet)
    damaged.write_bytes(b"PK\x03\x04 and no more")
    torch.save({"state_dict": {"encoder.weight": torch.zeros(2)}}, other)

    refused(CheckpointError, lambda: fpet_export.load(damaged), "a.ckpt", "not a whole PyTorch")
    refused(CheckpointError, lambda: fpet_export.load(other), "1 tensor", "encoder.weight")
    refused(CheckpointError, lambda: fpet_export.load(resnet), "another kind of network")
