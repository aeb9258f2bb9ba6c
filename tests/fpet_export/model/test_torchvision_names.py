"""Whole models of torchvision against torchvision itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.models import VisionTransformer  # type: ignore[import-untyped]  # no stubs

import fpet_export
from engines.engine import open_engine
from engines.errors import CheckpointError
from tests.fpet_export.tiny import relative

SAID: dict[str, Any] = {"heads": 2, "normalisation": "none"}


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    found = VisionTransformer(
        image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=64,
        num_classes=5,
    )  # fmt: skip
    for tensor in found.parameters():
        torch.nn.init.normal_(tensor, std=0.2)
    return found.eval()


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)


def saved(model: Any, tmp_path: Path, **changes: torch.Tensor | None) -> Path:
    path = tmp_path / "model.pth"
    tensors = model.state_dict()
    for name, tensor in changes.items():
        tensors.pop(name, None)
        if tensor is not None:
            tensors[name] = tensor
    torch.save(tensors, path)
    return path


def wanted(model: Any, images: np.ndarray) -> np.ndarray:
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).double() / 255
    with torch.inference_mode():
        logits: np.ndarray = model.double()(pixels).numpy()
    model.float()
    return logits


def test_it_gives_what_torchvision_gives(model: Any, images: np.ndarray, tmp_path: Path) -> None:
    run = fpet_export.load(saved(model, tmp_path), **SAID)

    assert relative(run.outputs(images).logits, wanted(model, images)) < 1e-6
    other = fpet_export.load(saved(model, tmp_path), **{**SAID, "heads": 4})
    assert relative(other.outputs(images).logits, wanted(model, images)) > 1e-4
    graph = run.fold().freeze(batch=3).to_onnx(tmp_path / "out")
    with open_engine(graph) as engine:
        pixels = (images / np.float32(255)).transpose(0, 3, 1, 2)
        found = engine.run({"images": np.ascontiguousarray(pixels)})["logits"]
    assert relative(found, wanted(model, images)) < 1e-5
    facts = run.facts()
    assert str(facts["backbone names"]) == "torchvision's (model.pth)"
    assert str(facts["backbone pool"]) == "class (torchvision's code)"


def test_older_names_of_the_mlp_are_read(model: Any, images: np.ndarray, tmp_path: Path) -> None:
    old = {}
    for name, tensor in model.state_dict().items():
        name = name.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2.")
        old[name] = tensor
    torch.save(old, tmp_path / "old.pth")

    run = fpet_export.load(tmp_path / "old.pth", **SAID)

    assert relative(run.outputs(images).logits, wanted(model, images)) < 1e-6


def test_it_may_be_a_backbone(model: Any, tmp_path: Path) -> None:
    probe = tmp_path / "probe.safetensors"
    from safetensors.torch import save_file

    save_file({"head.weight": torch.ones(3, 16), "head.bias": torch.zeros(3)}, probe)

    run = fpet_export.load(probe, backbone=saved(model, tmp_path), **SAID)

    assert run.model.spec.classes == 3


@pytest.mark.parametrize(
    ("changes", "said", "what"),
    [
        ({}, {"heads": None}, "how many attention heads"),
        ({}, {"pool": "avg"}, "torchvision's code"),
        ({"heads.pre_logits.weight": torch.ones(4, 16)}, {}, "heads.pre_logits.weight"),
        ({"encoder.layers.encoder_layer_0.ln_3.weight": torch.ones(16)}, {}, "ln_3.weight is none"),
        ({"encoder.layers.encoder_layer_1.ln_1.bias": None}, {}, "blocks.1.norm1.bias"),
        ({"encoder.pos_embedding": torch.ones(1, 9, 16)}, {}, "encoder.pos_embedding has 9 rows"),
        (
            {"encoder.layers.encoder_layer_0.mlp.linear_1.bias": torch.ones(64)},
            {},
            "and another are blocks.0.mlp.fc1.bias",
        ),
    ],
)
def test_what_is_no_whole_vit_is_refused(
    changes: dict[str, torch.Tensor | None], said: dict[str, Any], what: str,
    model: Any, tmp_path: Path,
) -> None:  # fmt: skip
    with pytest.raises(CheckpointError) as caught:
        fpet_export.load(saved(model, tmp_path, **changes), **{**SAID, **said})

    assert what in f"{caught.value.what} {caught.value.where}"
    assert caught.value.fix
