"""Write the small folders of PEFT that the tests read, and what PEFT says of their images.

It needs an environment with peft, timm and transformers, which this project does not:

    python tests/fpet_export/model/checkpoints/write_peft_folders.py

Every folder holds an adapter of random weights as PEFT saves it, and `logits.npy`: the answers of
`merge_and_unload(safe_merge=True)` in float64 to the images in `images.npy`.
"""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import Dinov2Config, Dinov2ForImageClassification, ViTConfig
from transformers import ViTForImageClassification as HuggingFaceViT

FOLDER = Path(__file__).with_name("peft_folders")
CLASSES, IMAGE, PATCH, WIDTH, DEPTH, HEADS = 5, 32, 8, 16, 2, 2

Kind = dict[str, Any]
COMMON: Kind = {"r": 2, "lora_alpha": 4}
OF_TIMM: dict[str, Kind] = {
    "lora": {"target_modules": ["qkv"]},
    "rslora-patterns": {
        "use_rslora": True,
        "target_modules": ["qkv", "fc1"],
        "rank_pattern": {"blocks.1.mlp.fc1": 3},
        "alpha_pattern": {"fc1": 7},
        "modules_to_save": ["head"],
        "bias": "lora_only",
    },
    "dora": {
        "use_dora": True,
        "target_modules": ["qkv", "proj", "fc2"],
        "modules_to_save": ["head"],
    },
    "all-linear-and-biases": {"target_modules": "all-linear", "bias": "all"},
    "bias-of-b": {
        "target_modules": ["fc1", "proj"],
        "lora_bias": True,
        "modules_to_save": ["head", "norm"],
    },
    "regex": {
        "target_modules": r"blocks\.1\.(attn\.qkv|mlp\.fc1)",
        "bias": "all",
        "modules_to_save": ["head"],
    },
    "one-block": {
        "target_modules": ["qkv", "head"],
        "layers_to_transform": [1],
        "layers_pattern": "blocks",
        "fan_in_fan_out": True,
    },
}
OF_VIT: dict[str, Kind] = {
    "lora": {"target_modules": ["q_proj", "v_proj"], "modules_to_save": ["classifier"]},
    "dora-all": {
        "use_dora": True,
        "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2"],
        "bias": "all",
        "modules_to_save": ["classifier"],
    },
    "all-linear": {"target_modules": "all-linear", "use_rslora": True},
}
OF_DINOV2: dict[str, Kind] = {
    "lora": {"target_modules": ["q_proj", "v_proj", "fc1"], "modules_to_save": ["classifier"]},
}


def timm_vit() -> torch.nn.Module:
    return timm.models.vision_transformer.VisionTransformer(
        img_size=IMAGE, patch_size=PATCH, embed_dim=WIDTH, depth=DEPTH, num_heads=HEADS,
        num_classes=CLASSES,
    )  # fmt: skip


def hugging_face_settings() -> Kind:
    return {
        "image_size": IMAGE, "patch_size": PATCH, "hidden_size": WIDTH, "num_labels": CLASSES,
        "num_hidden_layers": DEPTH, "num_attention_heads": HEADS,
    }  # fmt: skip


def drawn(model: torch.nn.Module) -> torch.nn.Module:
    """Give every weight a value that matters."""
    for tensor in model.parameters():
        torch.nn.init.normal_(tensor, std=0.2)
    return model.eval()


def tuned(model: torch.nn.Module, kind: Kind) -> Any:
    """Return the model with an adapter whose every weight is drawn."""
    peft = get_peft_model(copy.deepcopy(model), LoraConfig(**{**COMMON, **kind}))
    for name, tensor in peft.named_parameters():
        if not tensor.requires_grad:
            continue
        if "magnitude" in name:
            tensor.data.add_(0.3 * torch.rand_like(tensor))
        else:
            torch.nn.init.normal_(tensor, std=0.3)
    return peft.eval()


def answers(model: torch.nn.Module, images: torch.Tensor) -> np.ndarray:
    with torch.inference_mode():
        found = copy.deepcopy(model).double()(images)
    logits: np.ndarray = getattr(found, "logits", found).numpy()
    return logits


def main() -> None:
    shutil.rmtree(FOLDER, ignore_errors=True)
    torch.manual_seed(20261128)
    images = torch.rand(2, 3, IMAGE, IMAGE, dtype=torch.float64)
    FOLDER.mkdir()
    np.save(FOLDER / "images.npy", images.numpy())
    vit = HuggingFaceViT(ViTConfig(**hugging_face_settings(), intermediate_size=4 * WIDTH))
    dinov2 = Dinov2ForImageClassification(Dinov2Config(**hugging_face_settings()))
    models: tuple[tuple[str, Any, dict[str, Kind]], ...] = (
        ("timm", timm_vit(), OF_TIMM),
        ("vit", vit, OF_VIT),
        ("dinov2", dinov2, OF_DINOV2),
    )
    for name, model, kinds in models:
        base = FOLDER / name / "base"
        base.mkdir(parents=True)
        drawn(model)
        if name == "timm":
            save_file(model.state_dict(), base / "model.safetensors")
        else:
            model.save_pretrained(base)
        for kind, settings in kinds.items():
            folder = FOLDER / name / kind
            peft = tuned(model, settings)
            peft.save_pretrained(folder)
            (folder / "README.md").unlink()
            merged = peft.double().merge_and_unload(safe_merge=True)
            np.save(folder / "logits.npy", answers(merged, images))


if __name__ == "__main__":
    main()
