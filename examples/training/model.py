"""The tuned model of the examples, written from the equations of the FPET paper.

It is trained here, and it is the reference for what the exporter makes of the files: this module
imports nothing of the exporter but the weight quantizer, and no step is rewritten for speed.
"""

from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.nn import functional

from fpet_export.model.qlinear import fake_quantize

Method = Literal["adaptformer", "lora"]
Reduction = Literal["merge", "keep", "drop"]
"""What happens to the patches of set A in the merge block; only `merge` is FPET."""

REFINEMENT_WIDTH = 32
DROPOUT = 0.1


class QLinear(nn.Linear):
    """A linear layer without bias whose weight is used through its quantized value.

    With 32 bits it is a plain linear layer. Otherwise the forward value is the quantized weight
    and the gradient passes to the latent weight as if there were no quantization.
    """

    def __init__(self, inputs: int, outputs: int, *, bits: int) -> None:
        super().__init__(inputs, outputs, bias=False)
        self.bits = bits

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Apply the quantized weight to (..., inputs), giving (..., outputs)."""
        weight = self.weight
        if self.bits < 32:
            weight = weight + (fake_quantize(weight.detach(), self.bits) - weight).detach()
        return functional.linear(features, weight)


class Adapter(nn.Module):
    """Two linear layers around a narrow middle: `up(act(down(x)))`, no bias."""

    def __init__(self, width: int, middle: int, *, bits: int, relu: bool) -> None:
        super().__init__()
        self.adapter_down = QLinear(width, middle, bits=bits)
        self.adapter_up = QLinear(middle, width, bits=bits)
        self.relu = relu
        nn.init.xavier_uniform_(self.adapter_down.weight)
        # Not zero: a quantized weight is its standard deviation times a code, and stays zero.
        nn.init.normal_(self.adapter_up.weight, std=1e-3)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Map (..., width) to (..., width)."""
        middle = self.adapter_down(features)
        if self.relu:
            middle = middle.relu()
        middle = functional.dropout(middle, DROPOUT, self.training)
        update: torch.Tensor = self.adapter_up(middle)
        return update


@dataclass(frozen=True)
class Match:
    """Which patch of set B every patch of set A merges into.

    Attributes:
        choice: (B, Na, Nb) rows of zeros with a single one; differentiable in training.
        scores: (B, Na, Nb) cosine similarities.
    """

    choice: torch.Tensor
    scores: torch.Tensor

    def index(self) -> torch.Tensor:
        """Return (B, Na), the chosen patch of set B, in B's order without the class token."""
        return self.choice.argmax(dim=2)

    def margin(self) -> torch.Tensor:
        """Return (B, Na), best score minus second best."""
        best = self.scores.topk(2, dim=2).values
        return best[..., 0] - best[..., 1]


@dataclass(frozen=True)
class Output:
    """What a forward pass gives.

    Attributes:
        logits: (B, K).
        match: The match of the merge block, or nothing if no tokens were merged.
    """

    logits: torch.Tensor
    match: Match | None


def checkerboard(side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Divide the patches of a square grid into the two colours of a checkerboard.

    Set A holds the even colour: the patches of even rows and even columns, then those of odd rows
    and odd columns. Set B holds odd rows with even columns, then even rows with odd columns. Each
    of these four runs is in raster order.

    Args:
        side: Patches in a row and in a column, even.

    Returns:
        Raster patch indices of A and of B, without the class token.
    """
    raster = torch.arange(side * side).view(side, side)
    even_even, odd_odd = raster[0::2, 0::2], raster[1::2, 1::2]
    odd_even, even_odd = raster[1::2, 0::2], raster[0::2, 1::2]
    set_a = torch.cat([even_even.reshape(-1), odd_odd.reshape(-1)])
    set_b = torch.cat([odd_even.reshape(-1), even_odd.reshape(-1)])
    return set_a, set_b


def match_patches(metric_a: torch.Tensor, metric_b: torch.Tensor) -> Match:
    """Match every patch of A to the most similar patch of B.

    The forward value is hard; its gradient is that of a sigmoid whose threshold lies between the
    two best scores of the row (straight-through estimator).

    Args:
        metric_a: (B, Na, D) unit vectors.
        metric_b: (B, Nb, D) unit vectors.

    Source: FPET (arXiv 2503.20282), differentiable matching.
    """
    scores = metric_a @ metric_b.transpose(1, 2)
    threshold = scores.topk(2, dim=2).values.mean(dim=2, keepdim=True)
    soft = torch.sigmoid(scores - threshold)
    hard = (soft > 0.5).to(soft.dtype)
    return Match(choice=soft + (hard - soft).detach(), scores=scores)


class TunedViT(nn.Module):
    """A frozen ViT with adapters of one method, optionally merging tokens in one block."""

    def __init__(
        self,
        backbone: VisionTransformer,
        *,
        method: Method,
        width: int,
        bits: int,
        scale: float,
        merge_block: int,
        refinement_bits: int = 1,
    ) -> None:
        """Attach untrained adapters to a pretrained backbone.

        Args:
            backbone: Frozen by this call, its head excepted.
            method: LoRA on queries and values, or AdaptFormer beside the MLP.
            width: LoRA's rank, or AdaptFormer's inner size.
            bits: Bits of the adapters' weights; 32 means float.
            scale: Factor of the adapters' output, dimensionless.
            merge_block: 0-based index of the block that merges tokens.
            refinement_bits: Bits of the refinement adapter; 32 for decoded weights.
        """
        super().__init__()
        self.backbone = backbone.requires_grad_(False)
        backbone.get_classifier().requires_grad_(True)
        self.method: Method = method
        self.scale = scale
        self.merge_block = merge_block
        channels = backbone.embed_dim
        branches = ("adapter_mlp",) if method == "adaptformer" else ("lora_q", "lora_v")
        self.adapters = nn.ModuleList(
            nn.ModuleDict(
                {
                    name: Adapter(channels, width, bits=bits, relu=method == "adaptformer")
                    for name in branches
                }
            )
            for _ in backbone.blocks
        )
        head_width = channels // self.block(0).attn.num_heads
        self.refinement = Adapter(head_width, REFINEMENT_WIDTH, bits=refinement_bits, relu=True)
        set_a, set_b = checkerboard(backbone.patch_embed.grid_size[0])
        self.set_a: torch.Tensor
        self.set_b: torch.Tensor
        self.register_buffer("set_a", set_a, persistent=False)
        self.register_buffer("set_b", set_b, persistent=False)

    def block(self, index: int) -> Any:
        """Return one block of the backbone; timm's modules have no useful static types."""
        return self.backbone.blocks[index]

    def adapter(self, index: int, name: str) -> Adapter:
        """Return the adapter `name` of one block."""
        return cast(Adapter, cast(nn.ModuleDict, self.adapters[index])[name])

    def adapter_layers(self) -> dict[str, QLinear]:
        """List the adapters' layers under the checkpoint's names, in the checkpoint's order.

        Block by block; inside a block the method's adapters, then the refinement adapter; inside
        an adapter down, then up.
        """
        layers: dict[str, QLinear] = {}
        names = ("adapter_mlp",) if self.method == "adaptformer" else ("attn.lora_q", "attn.lora_v")
        for index in range(len(self.adapters)):
            found = {
                f"blocks.{index}.{name}": self.adapter(index, name.rpartition(".")[2])
                for name in names
            }
            if index == self.merge_block:
                found[f"blocks.{index}.refinement"] = self.refinement
            for name, adapter in found.items():
                layers[f"{name}.adapter_down"] = adapter.adapter_down
                layers[f"{name}.adapter_up"] = adapter.adapter_up
        return layers

    def attend(
        self, index: int, tokens: torch.Tensor, size: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Run the attention of one block, with LoRA if that is the method.

        Args:
            index: Index of the block.
            tokens: (B, N, C).
            size: (B, N, 1) patches that each token stands for; nothing if all stand for one.

        Returns:
            The update of the tokens, (B, N, C), and the keys, (B, H, N, D).
        """
        block = self.block(index)
        heads = block.attn.num_heads
        batch, count, channels = tokens.shape
        normed = block.norm1(tokens)
        query, key, value = block.attn.qkv(normed).chunk(3, dim=2)
        if self.method == "lora":
            query = query + self.scale * self.adapter(index, "lora_q")(normed)
            value = value + self.scale * self.adapter(index, "lora_v")(normed)
        query, key, value = (
            part.reshape(batch, count, heads, channels // heads).transpose(1, 2)
            for part in (query, key, value)
        )
        bias = None  # proportional attention: the logarithm of the key's size
        if size is not None:
            bias = size.log().transpose(1, 2)[:, None].to(query.dtype)
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        update = block.attn.proj(mixed.transpose(1, 2).reshape(batch, count, channels))
        return block.ls1(update), key

    def match(self, key: torch.Tensor) -> Match:
        """Match patches by the refined mean of the keys over the heads.

        Args:
            key: (B, H, N, D), the class token first. No gradient goes back into it.
        """
        metric = key.mean(dim=1).detach()
        if metric.dtype != torch.float64:
            metric = metric.float()
        with torch.autocast(metric.device.type, enabled=False):
            metric = metric + self.refinement(metric)
            patches = (metric / metric.norm(dim=2, keepdim=True))[:, 1:]
            return match_patches(patches[:, self.set_a], patches[:, self.set_b])

    def merge(self, tokens: torch.Tensor, match: Match) -> tuple[torch.Tensor, torch.Tensor]:
        """Average the patches of A into those of B; the class token stays as it is.

        Args:
            tokens: (B, 1 + P, C), each of them one patch or the class token.
            match: Match of A's patches to B's.

        Returns:
            Tokens (B, 1 + Nb, C) in the order class token, B; and their sizes (B, 1 + Nb, 1).
        """
        to_b = match.choice.transpose(1, 2)
        patches = tokens[:, 1:]
        size = 1.0 + to_b.sum(dim=2, keepdim=True)
        merged = (patches[:, self.set_b] + to_b @ patches[:, self.set_a]) / size
        return (
            torch.cat([tokens[:, :1], merged], dim=1),
            torch.cat([torch.ones_like(size[:, :1]), size], dim=1),
        )

    def forward(self, images: torch.Tensor, *, reduction: Reduction = "merge") -> Output:
        """Classify images.

        Args:
            images: (B, 3, H, W) in [0, 1].
            reduction: `keep` lets all blocks see all tokens; `drop` leaves set A behind in the
                merge block without adding it to set B.
        """
        backbone: Any = self.backbone
        patches = backbone.patch_embed(images)
        class_token = backbone.cls_token.expand(len(images), -1, -1)
        tokens = torch.cat([class_token, patches], dim=1) + backbone.pos_embed
        size: torch.Tensor | None = None
        match: Match | None = None
        for index in range(len(backbone.blocks)):
            block = self.block(index)
            update, key = self.attend(index, tokens, size)
            tokens = tokens + update
            if index == self.merge_block and reduction == "merge":
                match = self.match(key)
                tokens, size = self.merge(tokens, match)
            elif index == self.merge_block and reduction == "drop":
                tokens = torch.cat([tokens[:, :1], tokens[:, 1:][:, self.set_b]], dim=1)
            update = block.ls2(block.mlp(block.norm2(tokens)))
            if self.method == "adaptformer":
                # The branch reads the merged residual itself, not its layer norm.
                update = update + self.scale * self.adapter(index, "adapter_mlp")(tokens)
            tokens = tokens + update
        logits: torch.Tensor = backbone.head(backbone.norm(tokens)[:, 0])
        return Output(logits=logits, match=match)
