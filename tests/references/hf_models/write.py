"""Write small random models of transformers and their float64 logits; needs transformers alone.

`python tests/references/hf_models/write.py OUT` writes one folder a kind: the model as
`save_pretrained` leaves it, the processor's file, and `expected.npz` with images and logits.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import os
from pathlib import Path
from typing import Any, cast

import numpy as np
import PIL.Image
import torch
from safetensors.torch import save_file

IMAGES = 3
SIDE, PATCH, WIDTH, DEPTH, HEADS, CLASSES = 16, 4, 16, 2, 2, 3
HALF = [0.5, 0.5, 0.5]
PICTURE = np.stack(
    [
        128 + 127 * np.sin(np.add.outer(np.arange(50) / a, np.arange(37) / b))
        for a, b in ((9, 5), (4, 7), (11, 3))
    ],
    axis=-1,
).astype(np.uint8)
"""An upright picture that every processor has to cut or to squash."""

LABELS = {0: "cat", 1: "dog", 2: "owl"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kind:
    """One model to write.

    Attributes:
        name: Of its folder.
        config: transformers' class of its configuration.
        model: transformers' class of the model.
        changes: What its configuration has beside the small sizes.
        layout: How the weights are saved: "safetensors", "shards", "bin" or "runtime", which are
            the names that transformers 5 has at run time.
        images: Side of the images, where it is not that of the configuration.
        processor: transformers' class of the processor.
        size: What the processor resizes to.
    """

    name: str
    config: str
    model: str
    changes: dict[str, Any] = dataclasses.field(default_factory=dict)
    layout: str = "safetensors"
    images: int = SIDE
    processor: str = "ViTImageProcessor"
    size: dict[str, int] | None = None

    @property
    def asked(self) -> dict[str, bool]:
        """What the library is told where it resamples positions on request alone."""
        return {} if self.images == SIDE else {"interpolate_pos_encoding": True}


_VIT: dict[str, Any] = {"config": "ViTConfig", "model": "ViTForImageClassification"}
_SQUASHED: dict[str, Any] = {
    "processor": "DeiTImageProcessor",
    "size": {"height": 20, "width": 20},
}
_DEIT: dict[str, Any] = {"config": "DeiTConfig", "model": "DeiTForImageClassification"}
_TEACHER: dict[str, Any] = {
    "config": "DeiTConfig",
    "model": "DeiTForImageClassificationWithTeacher",
}
_DINO: dict[str, Any] = {"config": "Dinov2Config", "model": "Dinov2ForImageClassification"}
_REGISTERS: dict[str, Any] = {
    "config": "Dinov2WithRegistersConfig",
    "model": "Dinov2WithRegistersForImageClassification",
}
TEXT = {
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "intermediate_size": 8,
    "vocab_size": 100,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_CLIP: dict[str, Any] = {"config": "CLIPConfig", "model": "CLIPForImageClassification"}
_SIGLIP: dict[str, Any] = {"config": "SiglipConfig", "model": "SiglipForImageClassification"}
_V3: dict[str, Any] = {"config": "DINOv3ViTConfig", "model": "DINOv3ViTModel"}
_SQUARE: dict[str, Any] = {"processor": "DINOv3ViTImageProcessor"}
_CROPPED: dict[str, Any] = {"processor": "BitImageProcessor", "size": {"shortest_edge": 20}}

KINDS = (
    Kind(name="vit", **_VIT),
    Kind(name="vit-runtime-names", **_VIT, layout="runtime"),
    Kind(name="vit-shards", **_VIT, layout="shards"),
    Kind(
        name="vit-bin-no-bias",
        **_VIT,
        layout="bin",
        changes={"qkv_bias": False, "layer_norm_eps": 1e-3, "hidden_act": "gelu_new"},
    ),
    Kind(name="deit", **_DEIT, **_SQUASHED),
    Kind(name="deit-teacher", **_TEACHER, **_SQUASHED),
    Kind(name="deit-teacher-runtime-names", **_TEACHER, layout="runtime"),
    Kind(name="dinov2", **_DINO, **_CROPPED),
    Kind(name="dinov2-runtime-names", **_DINO, **_CROPPED, layout="runtime"),
    Kind(name="dinov2-resampled", **_DINO, **_CROPPED, changes={"image_size": 28}),
    Kind(name="clip", **_CLIP, processor="CLIPImageProcessor", size={"shortest_edge": SIDE}),
    Kind(name="siglip", **_SIGLIP, processor="SiglipImageProcessor"),
    Kind(name="dinov2-registers", **_REGISTERS, **_CROPPED),
    Kind(name="dinov2-registers-resampled", **_REGISTERS, **_CROPPED, changes={"image_size": 28}),
    Kind(name="dinov2-gated", **_DINO, **_CROPPED, changes={"use_swiglu_ffn": True}),
    Kind(
        name="dinov2-gated-runtime-names",
        **_DINO,
        **_CROPPED,
        changes={"use_swiglu_ffn": True},
        layout="runtime",
    ),
    Kind(name="dinov3", **_V3, **_SQUARE, changes={"num_register_tokens": 2}),
    Kind(name="dinov3-runtime-names", **_V3, **_SQUARE, layout="runtime"),
    Kind(
        name="dinov3-gated",
        **_V3,
        **_SQUARE,
        changes={
            "use_gated_mlp": True,
            "hidden_act": "silu",
            "key_bias": True,
            "rope_theta": 50.0,
            "image_size": 28,
        },
    ),
    Kind(name="vit-asked", **_VIT, images=24),
    Kind(name="siglip-vision", config="SiglipVisionConfig", model="SiglipVisionModel"),
    Kind(name="clip-vision", config="CLIPVisionConfig", model="CLIPVisionModel"),
)


def write(kind: Kind, folder: Path, seed: int = 0) -> None:
    """Write one model, its processor and its logits."""
    transformers = library()
    torch.manual_seed(seed)
    labels = {
        "id2label": LABELS,
        "label2id": {name: index for index, name in LABELS.items()},
    }
    sizes: dict[str, Any] = {
        "hidden_size": WIDTH,
        "num_hidden_layers": DEPTH,
        "num_attention_heads": HEADS,
        "image_size": SIDE,
        "patch_size": PATCH,
    }
    sizes |= {"mlp_ratio": 2} if "Dino" in kind.config else {"intermediate_size": 2 * WIDTH}
    fields = sizes | kind.changes
    if kind.config in ("CLIPConfig", "SiglipConfig"):
        fields = {"vision_config": fields, "text_config": TEXT}
    if "For" in kind.model:
        fields |= labels
    config = getattr(transformers, kind.config)(**fields)
    model = getattr(transformers, kind.model)(config).eval()
    for parameter in model.parameters():  # neither a norm nor a bias stays neutral
        parameter.data += 0.2 * torch.randn_like(parameter)
    save(model, kind.layout, folder)
    side = {"height": kind.images, "width": kind.images}
    crop = {"crop_size": side} if kind.size else {}
    processor = getattr(transformers, kind.processor)(
        size=kind.size or side, image_mean=HALF, image_std=HALF, **crop
    )
    processor.save_pretrained(folder)
    pixels = np.random.default_rng(seed).integers(
        0, 256, (IMAGES, kind.images, kind.images, 3), dtype=np.uint8
    )
    prepared = processor(PIL.Image.fromarray(PICTURE), do_normalize=False, return_tensors="np")
    np.savez(
        folder / "expected.npz",
        images=pixels,
        **cast("dict[str, Any]", answers_of(model, pixels, **kind.asked)),
        prepared=255 * prepared["pixel_values"][0].transpose(1, 2, 0),
    )


def library() -> Any:
    """Return transformers, which looks for nothing on a network."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    return importlib.import_module("transformers")


def save(model: Any, layout: str, folder: Path) -> None:
    """Save weights and configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    if layout == "shards":
        model.save_pretrained(folder, max_shard_size="12KB")
        return
    model.save_pretrained(folder)
    path = folder / "model.safetensors"
    if layout == "runtime":
        tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
        save_file(tensors, path, metadata={"format": "pt"})
    if layout == "bin":
        from safetensors.torch import load_file

        torch.save(load_file(path), folder / "pytorch_model.bin")
        path.unlink()


def answers_of(model: Any, pixels: np.ndarray, **asked: bool) -> dict[str, np.ndarray]:
    """Return what the library gives in float64 for (I, side, side, 3) pixels, by its name here.

    Logits (I, K); of a tower without a classifier its features (I, C) and tokens (I, P, C).
    """
    images = torch.from_numpy(pixels).double().permute(0, 3, 1, 2) / 255
    with torch.inference_mode():
        found = model.double()((images - 0.5) / 0.5, **asked)
    if hasattr(found, "logits"):
        return {"logits": found.logits.numpy()}
    registers = getattr(model.config, "num_register_tokens", None)
    prefix = int("CLIP" in type(model).__name__) if registers is None else 1 + registers
    tokens = found.last_hidden_state[:, prefix:]
    return {"features": found.pooler_output.numpy(), "tokens": tokens.numpy()}


def main() -> None:
    """Write every kind, and which versions made them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for kind in KINDS:
        write(kind, options.out / kind.name, options.seed)
    made = {"transformers": library().__version__, "torch": torch.__version__.split("+")[0]}
    (options.out / "versions.json").write_text(json.dumps(made) + "\n")


if __name__ == "__main__":
    main()
