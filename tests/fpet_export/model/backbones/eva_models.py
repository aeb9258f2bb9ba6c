"""Small models of timm's EVA family, and their answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import timm
import torch

HALF = (0.5, 0.5, 0.5)
DEPTH, CLASSES, PATCH = 3, 5, 8
NAMES: dict[str, dict[str, Any]] = {
    "eva_giant_patch14_224": {"mlp_ratio": 2},
    "eva02_tiny_patch14_224": {},
    "eva02_base_patch14_224": {},
    "eva02_base_patch16_clip_224": {},
    "vit_medium_patch16_rope_reg1_gap_256": {},
    "vit_pe_lang_large_patch14_448": {},
    "vit_small_patch16_rope_224": {},
    "vit_small_patch16_rope_mixed_224": {},
    "vit_small_patch16_rope_ape_224": {},
    "vit_small_patch16_rope_mixed_ape_224": {},
    "vit_small_patch16_dinov3": {},
    "vit_small_plus_patch16_dinov3_qkvb": {"dynamic_img_size": False, "global_pool": "token"},
    "vit_7b_patch16_dinov3": {},
    "vit_small_patch16_lingbot": {},
}


def arguments_of(name: str, **changes: Any) -> dict[str, Any]:
    own = {"embed_dim": 64, "depth": DEPTH, "num_heads": 4, "img_size": 4 * PATCH}
    return own | {"patch_size": PATCH, "num_classes": CLASSES} | NAMES.get(name, {}) | changes


def model_of(name: str, **changes: Any) -> Any:
    """A small model, the same whenever it is asked for, no weight of which is neutral."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any = timm.create_model(name, **arguments_of(name, **changes)).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    model.pretrained_cfg = {"mean": HALF, "std": HALF}
    return model


def images_of(size: tuple[int, int] = (4 * PATCH, 4 * PATCH), count: int = 3) -> np.ndarray:
    return np.random.default_rng(0).random((count, 3, *size), dtype=np.float32)


def answers_of(model: Any, images: np.ndarray) -> dict[str, np.ndarray]:
    """What the model gives in float64: logits, features, and the tokens of the patches."""
    with torch.inference_mode():
        pixels = (torch.from_numpy(images).double() - 0.5) / 0.5
        found = model.double().forward_features(pixels)
        features = model.forward_head(found, pre_logits=True)
        logits = model(pixels)
    tokens = found[:, model.num_prefix_tokens :]
    return {"logits": logits.numpy(), "features": features.numpy(), "tokens": tokens.numpy()}
