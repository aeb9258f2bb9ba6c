"""What a vision transformer is, without its weights."""

from __future__ import annotations

import dataclasses
from typing import Literal

from engines.manifest import Head
from fpet_export.model.rotary import Rotary

Activation = Literal["gelu", "gelu_tanh", "quick_gelu", "relu", "silu"]
Pool = Literal["class", "mean", "class+mean", "class+dist", "attention"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class VitSpec:
    """What a vision transformer is, without its weights.

    Attributes:
        image: (height, width) of the input in pixels.
        patch: (height, width) of a patch in pixels.
        width: Token width C.
        depth: Number of blocks.
        heads: Attention heads H; the head width D is C / H.
        hidden: Inner width of the MLP, that of what fc2 reads.
        classes: Number of logits K; 0 where there are none.
        prefix: Names of the tokens in front of the patches, in order: "cls", "dist", "reg",
            "prompt"; "reg" and "prompt" once per token.
        pool: What the head reads: the class token, the mean over patches, both of them side by
            side ("class+mean"), class and distillation token with a head each (their logits are
            averaged), or what one learned query attends to among the patches ("attention").
        absolute_positions: Whether learned positions are added to the tokens (`pos_embed`).
        position_covers_prefix: Whether `pos_embed` has rows for the prefix tokens; prompts never
            have one.
        rotary: How queries and keys of patches are turned by their position; None where they are
            not.
        norm_eps: Epsilon of every LayerNorm.
        activation: "gelu" is the exact (erf) form; "gelu_tanh" its approximation by a tanh.
        qkv_bias: Whether the qkv projection has a bias.
        key_bias: Whether its keys have one, too; that of EVA's and DINOv3's keys is always zero.
        patch_bias: Whether the patch embedding has a bias.
        pre_norm: Whether a LayerNorm stands before the first block.
        layer_scale: Whether each branch is multiplied by a learned vector.
        qk_norm: Whether queries and keys go through a LayerNorm over the width of a head.
        attention_norm: Whether a LayerNorm stands between the mixed values and the projection.
        mlp_norm: Whether a LayerNorm stands between the activation of the MLP and fc2.
        gated: Whether the MLP is gated: fc1 gives a gate and values, and fc2 reads
            `activation(gate) * values` (SwiGLU with the activation "silu").
        pool_norm: Whether the last norm stands after the pooling ("fc_norm") instead of before.
        final_norm: Whether there is such a norm at all; the classifier of transformers' CLIP has
            none.
        head: What the network gives: logits; "features", which is what a head reads, pooled and
            normalised (of two heads the mean of what both read); or "tokens", those of the patches
            after the norm in raster order. A norm that stands behind the pooling is none of theirs.
    """

    image: tuple[int, int]
    patch: tuple[int, int]
    width: int
    depth: int
    heads: int
    hidden: int
    classes: int
    prefix: tuple[Literal["cls", "dist", "reg", "prompt"], ...] = ("cls",)
    pool: Pool = "class"
    absolute_positions: bool = True
    position_covers_prefix: bool = True
    rotary: Rotary | None = None
    norm_eps: float = 1e-6
    activation: Activation = "gelu"
    qkv_bias: bool = True
    key_bias: bool = True
    patch_bias: bool = True
    pre_norm: bool = False
    layer_scale: bool = False
    qk_norm: bool = False
    attention_norm: bool = False
    mlp_norm: bool = False
    gated: bool = False
    pool_norm: bool = False
    final_norm: bool = True
    head: Head = "logits"

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of patches."""
        return self.image[0] // self.patch[0], self.image[1] // self.patch[1]

    @property
    def patches(self) -> int:
        """Number of patches P."""
        return self.grid[0] * self.grid[1]

    @property
    def tokens(self) -> int:
        """Number of tokens N before any merge, prefix included."""
        return len(self.prefix) + self.patches

    @property
    def prompts(self) -> int:
        """Number of prompts, the last of the prefix tokens."""
        return self.prefix.count("prompt")

    @property
    def positions(self) -> int:
        """Number of rows of `pos_embed`; 0 where there is none."""
        if not self.absolute_positions:
            return 0
        own = len(self.prefix) - self.prompts
        return self.patches + (own if self.position_covers_prefix else 0)

    @property
    def head_width(self) -> int:
        """Width D of one attention head."""
        return self.width // self.heads

    @property
    def metric_macs(self) -> int:
        """Multiply-adds that the head average of one token's keys takes in the frozen graph.

        What differs from head to head does not commute with the average, a norm behind the keys or
        angles of their own: then each head's are computed.
        """
        return self.width * (self.width if self.whole_keys else self.head_width)

    @property
    def whole_keys(self) -> bool:
        """Whether the head average of keys needs the keys of each head."""
        return self.qk_norm or (self.rotary is not None and self.rotary.learned)

    @property
    def read_tokens(self) -> int | None:
        """Number of leading tokens that the head reads; None where it reads the patches too."""
        if self.head == "tokens":
            return None
        return {"class": 1, "class+dist": 2}.get(self.pool)

    @property
    def normalises(self) -> bool:
        """Whether a norm stands behind the last block in what the network gives."""
        return self.final_norm and not (self.pool_norm and self.head == "tokens")

    @property
    def output(self) -> tuple[int, ...]:
        """Shape of what the network gives for one image."""
        shapes = {
            "logits": (self.classes,),
            "features": (self.features,),
            "tokens": (self.patches, self.width),
        }
        return shapes[self.head]

    @property
    def features(self) -> int:
        """Width of what one head reads."""
        return 2 * self.width if self.pool == "class+mean" else self.width

    def describe(self) -> str:
        """Return a readable name: "ViT 768x12, 12 heads, patch 16, 224 px"."""
        patch = _side(self.patch)
        rotary = "" if self.rotary is None else ", rotary positions"
        return (
            f"ViT {self.width}x{self.depth}, {self.heads} heads, "
            f"patch {patch}, {_side(self.image)} px{rotary}"
        )

    def describe_output(self) -> str:
        """Return what the network gives for one image: "100 classes", "384 features"."""
        if self.head == "tokens":
            return f"{self.patches} tokens of width {self.width}"
        return f"{self.output[0]} {'classes' if self.head == 'logits' else 'features'}"


def _side(size: tuple[int, int]) -> str:
    return str(size[0]) if size[0] == size[1] else f"{size[0]}x{size[1]}"
