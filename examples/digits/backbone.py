"""The small ViT that the example tunes: its sizes, its pretraining, its files."""

import json
import time
from dataclasses import asdict, dataclass
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from timm.layers.patch_dropout import PatchDropout
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.nn import functional

from examples.digits.data import (
    CLASS_NAMES,
    FOLDER,
    MODEL_SIZE,
    Digits,
    compose_clean,
    compose_coloured,
    compose_pretraining,
    to_input,
)
from examples.training.schedule import batches, make_optimizer, set_learning_rate

WEIGHTS_FILE = FOLDER / "backbone.safetensors"
CONFIG_FILE = FOLDER / "config.json"
PRETRAINING_FILE = FOLDER / "pretraining.json"
ARCHITECTURE = "vit_base_patch16_224"
MODEL_ARGS: dict[str, Any] = {"embed_dim": 128, "depth": 12, "num_heads": 2}


def make_backbone() -> VisionTransformer:
    """Make the untrained ViT: 196 patches, width 128, 12 blocks, 2 heads of width 64."""
    return VisionTransformer(
        img_size=MODEL_SIZE,
        patch_size=16,
        num_classes=len(CLASS_NAMES),
        mlp_ratio=4.0,
        qkv_bias=True,
        **MODEL_ARGS,
    )


def load_backbone() -> VisionTransformer:
    """Load the pretrained ViT, head included, in eval mode."""
    backbone = make_backbone()
    backbone.load_state_dict(load_file(WEIGHTS_FILE))
    return backbone.eval()


def save_backbone(backbone: VisionTransformer) -> None:
    """Write float32 weights under timm's names, and a configuration in timm's hub layout."""
    weights = {name: tensor.contiguous() for name, tensor in backbone.state_dict().items()}
    save_file(weights, WEIGHTS_FILE, metadata={"format": "pt"})
    WEIGHTS_FILE.chmod(0o644)  # safetensors writes for the owner only
    config = {
        "architecture": ARCHITECTURE,
        "num_classes": len(CLASS_NAMES),
        "num_features": MODEL_ARGS["embed_dim"],
        "global_pool": "token",
        "model_args": MODEL_ARGS,
        "pretrained_cfg": {
            "input_size": [3, MODEL_SIZE, MODEL_SIZE],
            "fixed_input_size": True,
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "crop_mode": "squash",
            "mean": [0.0, 0.0, 0.0],
            "std": [1.0, 1.0, 1.0],
            "num_classes": len(CLASS_NAMES),
            "pool_size": None,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
            "label_names": list(CLASS_NAMES),
        },
    }
    CONFIG_FILE.write_text(json.dumps(config, indent=2) + "\n")


@torch.no_grad()
def accuracy_clean(backbone: VisionTransformer, digits: Digits) -> float:
    """Share of upright white-on-black digits that the backbone's own head gets right."""
    backbone.eval()
    images = compose_clean(digits.glyphs, torch.Generator())
    correct = 0
    for start in range(0, len(images), 60):
        chosen = backbone(to_input(images[start : start + 60])).argmax(dim=1).numpy()
        correct += int((chosen == digits.labels[start : start + 60]).sum())
    return correct / len(images)


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A stretch of the pretraining, with an optimiser and a cosine of its own.

    Attributes:
        epochs: Passes over the training digits.
        cosine_epochs: Length of the cosine; if longer than `epochs`, the rest of it is cut off.
        patch_drop_rate: Share of the patches that each image loses at random.
        peak_lr: AdamW's learning rate after the warm-up.
        coloured: Whether digits and their plain grounds are coloured; else white on black.
    """

    epochs: int
    cosine_epochs: int
    patch_drop_rate: float
    peak_lr: float
    coloured: bool = False


# Twelve blocks are affordable on a processor because most epochs see few of the patches.
PHASES = (
    Phase(epochs=60, cosine_epochs=86, patch_drop_rate=0.75, peak_lr=1e-3),
    Phase(epochs=20, cosine_epochs=24, patch_drop_rate=0.5, peak_lr=7e-4),
    Phase(epochs=5, cosine_epochs=5, patch_drop_rate=0.0, peak_lr=1.5e-4),
    Phase(epochs=12, cosine_epochs=12, patch_drop_rate=0.5, peak_lr=6e-4, coloured=True),
)


def pretrain(train: Digits, val: Digits, *, batch_size: int, seed: int, first_phase: int) -> None:
    """Train the backbone from random weights on white digits and save it after every phase.

    Args:
        train: Digits to learn from.
        val: Digits on which every phase's result is measured; `PHASES` was chosen on them.
        batch_size: Images a step; a smaller last batch is skipped.
        seed: Seed of the weights, the order, the augmentation and the dropped patches.
        first_phase: Phases before this one are taken as done and their backbone is loaded.
    """
    torch.manual_seed(seed)
    backbone = make_backbone()
    records: list[dict[str, Any]] = []
    if first_phase > 0:
        backbone = load_backbone()
        records = json.loads(PRETRAINING_FILE.read_text())[:first_phase]
    for number in range(first_phase, len(PHASES)):
        started = time.perf_counter()
        if number > 0:
            torch.manual_seed(seed + number)  # A phase does not depend on who ran the one before.
        _run_phase(
            backbone, PHASES[number], train, batch_size=batch_size, seed=seed + 1 + 100 * number
        )
        seconds = time.perf_counter() - started
        save_backbone(backbone)
        records.append(
            {
                **asdict(PHASES[number]),
                "batch_size": batch_size,
                "seed": seed,
                "wall_seconds": round(seconds, 1),
                "val_accuracy_clean": round(accuracy_clean(load_backbone(), val), 4),
            }
        )
        PRETRAINING_FILE.write_text(json.dumps(records, indent=2) + "\n")
        print(records[-1], flush=True)


def _run_phase(
    backbone: VisionTransformer, phase: Phase, train: Digits, *, batch_size: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    dropout = PatchDropout(phase.patch_drop_rate) if phase.patch_drop_rate else nn.Identity()
    backbone.register_module("patch_drop", dropout)
    backbone.train()
    optimizer = make_optimizer(backbone, weight_decay=0.05)
    compose = compose_coloured if phase.coloured else compose_pretraining
    labels = torch.from_numpy(train.labels)
    steps = phase.cosine_epochs * (len(labels) // batch_size)
    step = 0
    for epoch in range(phase.epochs):
        losses: list[float] = []
        correct = 0
        for chosen in batches(len(labels), batch_size, generator):
            set_learning_rate(optimizer, step, steps, warmup=steps // 12, peak=phase.peak_lr)
            images = to_input(compose(train.glyphs[chosen], generator))
            with torch.autocast("cpu", torch.bfloat16):
                logits = backbone(images)
            loss = functional.cross_entropy(logits.float(), labels[chosen], label_smoothing=0.1)
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(backbone.parameters(), 1.0)
            optimizer.step()
            step += 1
            losses.append(loss.item())
            correct += int((logits.argmax(dim=1) == labels[chosen]).sum())
        print(
            f"pretrain epoch {epoch + 1}/{phase.epochs} loss {sum(losses) / len(losses):.4f} "
            f"train acc {correct / (len(losses) * batch_size):.4f}",
            flush=True,
        )
    backbone.register_module("patch_drop", nn.Identity())
