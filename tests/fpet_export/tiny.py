"""Tiny networks and runs that tests build in code."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch

from fpet_export.model import methods, qlinear
from fpet_export.model.adapt import adapt
from fpet_export.model.backbones import Backbone
from fpet_export.model.backbones._names import raw_pixels
from fpet_export.model.backbones.random_weights import draw
from fpet_export.model.checkpoints import Checkpoint
from fpet_export.model.fold import fold
from fpet_export.model.merge_plan import at_block
from fpet_export.model.vit import Vit
from fpet_export.model.vit_spec import VitSpec
from fpet_export.stages import Folded
from tests.references.fpet_reference import Network

WIDTH, HEADS, DEPTH, PATCH, SIDE, CLASSES = 64, 2, 3, 4, 16, 5
NO_SHIFT = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def spec_of(**changes: Any) -> VitSpec:
    """A ViT of width 64 with three blocks and a 4 x 4 grid."""
    fields: dict[str, Any] = {
        "image": (SIDE, SIDE),
        "patch": (PATCH, PATCH),
        "width": WIDTH,
        "depth": DEPTH,
        "heads": HEADS,
        "hidden": 2 * WIDTH,
        "classes": CLASSES,
    }
    return VitSpec(**(fields | changes))


def timm_config(spec: VitSpec) -> dict[str, Any]:
    """timm's config.json of a ViT whose head reads the class token."""
    return {
        "architecture": "vit_tiny_patch16_224",
        "num_classes": spec.classes,
        "global_pool": "token",
        "model_args": {
            "embed_dim": spec.width,
            "depth": spec.depth,
            "num_heads": spec.heads,
            "mlp_ratio": spec.hidden / spec.width,
            "patch_size": list(spec.patch),
            "img_size": list(spec.image),
        },
    }


def backbone_of(spec: VitSpec, seed: int = 0) -> Backbone:
    return Backbone(
        spec=spec,
        weights=draw(spec, seed),
        source="a tiny test backbone",
        quality="random",
        preprocessing=raw_pixels(spec.image),
    )


def weight(shape: tuple[int, ...], generator: torch.Generator, bit: int = 32) -> torch.Tensor:
    """A weight on its code values, large enough to matter."""
    drawn = 0.5 * torch.randn(shape, generator=generator) / shape[-1] ** 0.5 + 0.01
    return qlinear.fake_quantize(drawn, bit) if bit in qlinear.LOW_BITS else drawn


def checkpoint_of(
    spec: VitSpec,
    method: str = "lora",
    *,
    bit: int = 32,
    dim: int = 8,
    scale: float = 0.7,
    merge_block: int | None = 1,
    seed: int = 1,
    refined: bool = True,
) -> Checkpoint:
    generator = torch.Generator().manual_seed(seed)
    factors: list[dict[str, torch.Tensor]] = []
    if method != "none":
        layers = methods.load(method).layers(spec.width, dim)
        factors = [
            {layer.name: weight(layer.shape, generator, bit) for layer in layers}
            for _ in range(spec.depth)
        ]
    refinement = None
    if merge_block is not None and refined:
        head_width = spec.head_width
        refinement = (
            weight((32, head_width), generator, 1),
            weight((head_width, 32), generator, 1),
        )
    names = ["head"] + (["head_dist"] if spec.pool == "class+dist" else [])
    head = {}
    own = torch.Generator().manual_seed(seed + 1000)  # the same head with any method
    for name in names:
        head[f"{name}.weight"] = weight((CLASSES, spec.features), own)
        head[f"{name}.bias"] = weight((CLASSES,), own)
    return Checkpoint(
        name="tiny",
        method=method,
        bit=bit if factors else None,
        dim=dim if factors else None,
        scale=scale if factors else None,
        merge=at_block(merge_block),
        factors=tuple(factors),
        refinement=refinement,
        head=head,
        quality="random",
        files=(),
        facts={},
    )


def adapted(spec: VitSpec, checkpoint: Checkpoint, seed: int = 0) -> Vit:
    return adapt(backbone_of(spec, seed), checkpoint)


def images_of(spec: VitSpec, count: int = 2, seed: int = 5) -> np.ndarray:
    """Pixels in 0..1 that are multiples of 1/255, so that uint8 inputs say the same."""
    generator = np.random.default_rng(seed)
    raw = generator.integers(0, 256, (count, 3, *spec.image)).astype(np.float32)
    return raw / np.float32(255)


def reference_network(
    spec: VitSpec, checkpoint: Checkpoint, seed: int = 0, **changes: Any
) -> Network:
    """The same weights for the independent reference, widened to float64."""
    weights = draw(spec, seed) | checkpoint.head
    pair = checkpoint.refinement
    network = Network(
        weights={name: _wide(tensor) for name, tensor in weights.items()},
        heads=spec.heads,
        depth=spec.depth,
        patch=spec.patch,
        prefix=spec.prefix,
        pool=spec.pool,
        eps=spec.norm_eps,
        quick_gelu=spec.activation == "quick_gelu",
        merge_block=checkpoint.merge_block,
        refinement=None if pair is None else (_wide(pair[0]), _wide(pair[1])),
        adapters=tuple({n: _wide(t) for n, t in block.items()} for block in checkpoint.factors),
        scale=checkpoint.scale or 0.0,
    )
    return dataclasses.replace(network, **changes)


def relative(actual: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference over the largest absolute value of the reference."""
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


def _wide(tensor: torch.Tensor) -> np.ndarray:
    return tensor.double().numpy()


def without_merging(folded: Folded) -> Vit:
    """Return the folded model without its token merger; the weights are shared."""
    model, _ = fold(folded.model)
    model.merges = torch.nn.ModuleDict()
    return model
