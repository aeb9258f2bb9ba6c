"""Folded model to frozen module: static shapes, constants folded, no branches.

What changes against the folded `Vit`, each exact up to rounding:

1. Matches are found in float32, by argmax. The published sigmoid rule of FPET loses a token when
   two scores nearly tie; `ties="reference"` reproduces that loss.
2. Patches are put into the order of the first merge once, right after the patch embedding (a ViT is
   permutation-equivariant from there on), and each merge leaves them in the order of the next one,
   so that none gathers.
3. The last block computes only the tokens that the head reads (`last_block="class-token"`).
4. Class token plus position, mean and std of the pixels, layer scales and the averaged key weight
   of the match become constants.
5. Sines and cosines of rotary positions become constants in that order; of queries and keys whose
   neighbouring channels are turned together the weights are reordered, so that halves are.
6. Attention is written out as MatMul, Softmax, MatMul with a float key bias (B, 1, 1, N); its
   scale sits on q and k (`"split"`) or in the query weights (`"folded"`). To run in PyTorch it
   may be one operator (`attention="fused"`); ONNX graphs are written from the primitive form.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable, Mapping
from typing import cast

import torch
from torch import nn

from engines.manifest import Preprocessing
from fpet_export.graph.frozen_attention import (
    FrozenAttention,
    FrozenAttentionPool,
    aligned,
    linear,
    projected_by,
    with_gates,
)
from fpet_export.graph.frozen_turns import FrozenTurns
from fpet_export.graph.merge_reads import reads_of
from fpet_export.graph.options import FreezeOptions
from fpet_export.model.gates import Decision
from fpet_export.model.kept import BranchModule
from fpet_export.model.mergers import FrozenMerged, MergingModule
from fpet_export.model.vit import Block, Vit, activate, patch_positions, prefix_tokens
from fpet_export.model.vit_spec import VitSpec


class FrozenBlock(nn.Module):
    """One block; `queries` is the number of leading tokens that it computes, None for all."""

    def __init__(
        self,
        block: Block,
        merger: MergingModule | None,
        options: FreezeOptions,
        *,
        queries: int | None,
        leave: torch.Tensor | None,
    ) -> None:
        super().__init__()
        self.queries = queries
        self.activation, self.gated = block.mlp.activation, block.mlp.gated
        self.norm1, self.norm2 = block.norm1, block.norm2
        # A merging block needs every token attended, because all of them take part in the merge.
        self.attn = FrozenAttention(block, options, queries=None if merger else queries)
        self.merge: nn.Module | None = None
        if merger is not None:
            self.merge = merger.frozen(reads_of(block.attn), ties=options.ties, leave=leave)
        self.fc1, self.fc1_gates, _ = with_gates(block.mlp.fc1, None)
        gamma = block.ls2.gamma if block.layer_scale else None
        self.mlp_norm = block.mlp.norm if block.mlp.normalises else None
        self.fc2, self.fc2_gates, self.gamma = with_gates(block.mlp.fc2, gamma)
        branches = block.each_branch()
        # What stands beside an attention has as many tokens as that computes.
        attends = None if merger else queries
        self.adapters = nn.ModuleList(
            branch.frozen(attends if branch.reads == "norm1" else queries) for branch in branches
        )
        self.reads = [branch.reads for branch in branches]
        self.gates = [branch.gates for branch in branches]

    def forward(
        self,
        x: torch.Tensor,
        key_bias: torch.Tensor | None,
        sizes: torch.Tensor | None,
        turn: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, FrozenMerged | None]:
        """Run the block on (B, N, C) with sizes (B, N); return tokens, and what merged."""
        normalised = self.norm1(x)
        attended = self.attn(normalised, key_bias, turn)
        for adapter, reads in zip(self.adapters, self.reads, strict=True):
            if reads == "norm1":
                attended = attended + adapter(normalised[:, : attended.shape[1]])
        merged: FrozenMerged | None = None
        if self.merge is not None:
            merged = cast(FrozenMerged, self.merge(x + attended, normalised, sizes, turn))
            x = merged.tokens if self.queries is None else merged.tokens[:, : self.queries]
        else:
            x = (x if self.queries is None else x[:, : self.queries]) + attended
        given = {"residual": x, "norm2": self.norm2(x)}
        hidden = projected_by(self.fc1, self.fc1_gates, None, given["norm2"])
        hidden = activate(hidden, self.activation, gated=self.gated)
        hidden = hidden if self.mlp_norm is None else self.mlp_norm(hidden)
        hidden = projected_by(self.fc2, self.fc2_gates, self.gamma, hidden)
        for adapter, reads, gates in zip(self.adapters, self.reads, self.gates, strict=True):
            hidden = hidden * adapter(given[reads]) if gates else hidden
        given["mlp"], out = hidden, x + hidden
        for adapter, reads, gates in zip(self.adapters, self.reads, self.gates, strict=True):
            if reads in given and not gates:
                out = out + adapter(given[reads])
        return out, merged


class FrozenVit(nn.Module):
    """The module that is exported: pixels in, logits or features out, every other shape fixed.

    Attributes:
        spec: The network.
        options: How it was frozen.
        tokens: Tokens that leave each block.
    """

    def __init__(
        self, model: Vit, options: FreezeOptions, mean: Iterable[float], std: Iterable[float]
    ) -> None:
        super().__init__()
        spec = model.spec
        self.spec, self.options = spec, options
        merges = {int(name): cast(MergingModule, one) for name, one in model.merges.items()}
        self.uneven = options.ties == "reference" or not all(
            one.step.whole for one in merges.values()
        )
        self.prefix = len(spec.prefix)
        orders = [one.order for one in merges.values()]
        self._freeze_embedding(model, orders[0] if orders else None, list(mean), list(std))
        leaves = dict(zip(merges, [*orders[1:], None], strict=False))
        self.norm_pre = model.norm_pre if spec.pre_norm else None
        self.turns = None if spec.rotary is None else FrozenTurns(model, merges)
        last = spec.depth - 1
        self.queries = spec.read_tokens if options.last_block == "class-token" else None
        self.blocks = nn.ModuleList(
            FrozenBlock(
                block,
                merges.get(index),
                options,
                queries=self.queries if index == last else None,
                leave=leaves.get(index),
            )
            for index, block in enumerate(model.each_block())
        )
        self.norm: nn.Module | None = None
        if spec.normalises:
            self.norm = model.fc_norm if spec.pool_norm else model.norm
        self.pool: nn.Module | None = None
        if spec.pool == "attention" and spec.head != "tokens":
            self.pool = FrozenAttentionPool(model.attn_pool, options)
        self.head = _frozen_head(model)
        self.tokens = self._count_tokens(merges)

    def _freeze_embedding(
        self, model: Vit, order: torch.Tensor | None, mean: list[float], std: list[float]
    ) -> None:
        spec = model.spec
        proj = model.patch_embed.proj
        deviation = torch.tensor(std, dtype=torch.float64)
        shift = torch.tensor(mean, dtype=torch.float64) / deviation
        weight = proj.weight.double()
        bias = -(weight * shift[:, None, None]).sum(dim=(1, 2, 3))
        if proj.bias is not None:
            bias = bias + proj.bias.double()
        weight = weight / deviation[:, None, None]
        if self.options.input != "float32":
            weight = weight / 255
        self.patches = nn.Conv2d(3, spec.width, spec.patch, stride=spec.patch)
        self.patches.weight = nn.Parameter(weight.float(), requires_grad=False)
        self.patches.bias = nn.Parameter(bias.float(), requires_grad=False)
        self.patch_adapters = nn.ModuleList(
            cast(BranchModule, branch).frozen(None)
            for branch in model.patch_embed.branches.values()
        )
        self.register_buffer("order", order)
        back = spec.head == "tokens" and order is not None
        self.register_buffer("raster", order.argsort() if back else None)  # type: ignore[union-attr]
        self.prefix_tokens = nn.Parameter(prefix_tokens(model), requires_grad=False)
        self.position: nn.Parameter | None = None
        if spec.absolute_positions:
            position = patch_positions(model)
            ordered = position if order is None else position[:, order]
            self.position = nn.Parameter(ordered.contiguous(), requires_grad=False)

    def _count_tokens(self, merges: Mapping[int, MergingModule]) -> tuple[int, ...]:
        spec = self.spec
        counts, now = [], spec.tokens
        for index in range(spec.depth):
            if index in merges:
                now = merges[index].step.after
            last = index == spec.depth - 1
            counts.append(self.queries if last and self.queries else now)
        return tuple(counts)

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """Turn pixels into tokens (B, N, C): the prefix, patches in the first merge's order."""
        if self.options.input == "uint8-nhwc":
            images = images.permute(0, 3, 1, 2)
        patches = self.patches(images.to(self.patches.weight.dtype)).flatten(2).transpose(1, 2)
        for adapter in self.patch_adapters:
            patches = patches + adapter(patches)
        if self.order is not None:
            patches = patches.index_select(1, self.order)
        if self.position is not None:
            patches = patches + self.position
        if self.prefix:
            prefix = self.prefix_tokens.expand(images.shape[0], -1, -1)
            patches = torch.cat([prefix, patches], dim=1)
        return cast(torch.Tensor, self.norm_pre(patches)) if self.norm_pre else patches

    def trace(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Classify and audit: "logits" (B, K), and where tokens merge "size" and "match".

        They are the (B, N') sizes after the last merge, and the (B, Na) matches of the blocks that
        merge, side by side. What a network without a classifier gives stands under "logits", too.
        """
        matches: list[torch.Tensor] = []
        chosen: list[torch.Tensor] = []
        x, key_bias, sizes, turn = self.embed(images), None, None, None
        for index, block in self.blocks.named_children():
            turn = None if self.turns is None else self.turns.of(int(index), turn)
            x, merged = block(x, key_bias, sizes, turn)
            if merged is not None:
                turn = None if self.turns is None else self.turns.after(turn, merged)
                sizes = merged.sizes
                matches.append(merged.match)
                chosen.append(merged.chosen)
                key_bias = sizes.log()[:, None, None, :].to(x.dtype)
                if self.options.attention == "fused":
                    key_bias = aligned(key_bias)
        if self.spec.head == "tokens":
            found = {"logits": self._tokens_of_patches(x, chosen)}
        else:
            found = {"logits": self._classify(x, sizes, key_bias)}
        if sizes is not None:
            found |= {"size": sizes, "match": torch.cat(matches, dim=1)}
        return found

    def _tokens_of_patches(self, x: torch.Tensor, chosen: list[torch.Tensor]) -> torch.Tensor:
        """Give each patch the token (B, N', C) that it is part of; return (B, P, C), row by row."""
        x = x if self.norm is None else self.norm(x)
        for one in reversed(chosen):
            x = one.transpose(1, 2).to(x.dtype) @ x
        patches = x[:, self.prefix :]
        raster = cast("torch.Tensor | None", self.raster)
        return patches if raster is None else patches.index_select(1, raster)

    def _classify(
        self, x: torch.Tensor, sizes: torch.Tensor | None, key_bias: torch.Tensor | None
    ) -> torch.Tensor:
        spec = self.spec
        read = spec.read_tokens
        x = x if read is None else x[:, :read]
        if self.norm is not None and not spec.pool_norm:
            x = self.norm(x)
        patches = x[:, self.prefix :]
        if self.pool is not None:
            pooled = self.pool(patches, None if key_bias is None else key_bias[..., self.prefix :])
        elif read is None:
            if sizes is None:
                pooled = patches.mean(dim=1)
            else:
                weight = sizes[:, self.prefix :, None]
                total = weight.sum(dim=1, keepdim=True) if self.uneven else spec.patches
                pooled = (patches * (weight / total).to(x.dtype)).sum(dim=1)
            if spec.pool == "class+mean":
                pooled = torch.cat([x[:, 0], pooled], dim=1)
        elif spec.head == "features":
            pooled = x[:, 0] if read == 1 else x.mean(dim=1)
        else:
            pooled = x.flatten(1)
        if self.norm is not None and spec.pool_norm:
            pooled = self.norm(pooled)
        return pooled if self.head is None else cast(torch.Tensor, self.head(pooled))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Run pixels in the layout of `options.input`; return what `VitSpec.head` names."""
        return self.trace(images)["logits"]


def typed(module: FrozenVit, dtype: torch.dtype) -> FrozenVit:
    """Return a copy that computes in `dtype`, with matches and gates kept in float32.

    Half precision has about three decimal digits, and the two best scores of a match can be
    closer than that: a flipped match moves a whole token. A match reads rotary positions, too.
    """
    copied = copy.deepcopy(module)
    blocks = [cast(FrozenBlock, block) for block in copied.blocks]
    merges = [block.merge for block in blocks]
    turns, copied.turns = copied.turns, None
    for block in blocks:
        block.merge = None
    copied = copied.to(dtype)
    copied.turns = turns
    for block, merge in zip(blocks, merges, strict=True):
        block.merge = merge
    for part in copied.modules():
        if isinstance(part, Decision):
            part.float()
    return copied


def input_shape(spec: VitSpec, options: FreezeOptions, batch: int) -> tuple[int, ...]:
    """Return the shape of the input tensor for a batch."""
    height, width = spec.image
    if options.input == "uint8-nhwc":
        return batch, height, width, 3
    return batch, 3, height, width


def preprocessing_for(base: Preprocessing, options: FreezeOptions) -> Preprocessing:
    """Return what is left to do outside the graph: `base` with mean and std inside it."""
    return dataclasses.replace(
        base,
        layout="NHWC" if options.input == "uint8-nhwc" else "NCHW",
        dtype="float32" if options.input == "float32" else "uint8",
        in_graph=True,
    )


def _frozen_head(model: Vit) -> nn.Linear | None:
    """Return one layer on what is pooled; of two heads on [class, dist] (B, 2C), their mean."""
    if model.spec.head != "logits":
        return None
    if model.spec.pool != "class+dist":
        return model.head
    weight = torch.cat([model.head.weight, model.head_dist.weight], dim=1) / 2
    return linear(weight, (model.head.bias + model.head_dist.bias) / 2)
