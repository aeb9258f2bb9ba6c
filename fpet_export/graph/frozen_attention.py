"""Attention of the frozen module, with its scale and its updates where they belong.

It has two forms of one value. "primitive" writes MatMul, Softmax and MatMul out, which is what
runtimes recognise in an ONNX graph. "fused" is PyTorch's own operator, which on a GPU is one kernel
that never writes the (B, H, queries, N) weights to memory.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import nn

from fpet_export.graph.frozen_gates import FrozenGates, gated_rows, gates_of, require_folded
from fpet_export.model.attached import Edited
from fpet_export.model.rotary import by_halves, turned
from fpet_export.model.vit import Attention, AttentionPool, Block

if TYPE_CHECKING:
    from fpet_export.graph.options import FreezeOptions


ALIGNED = 8
"""Elements that every stride of a mask is a multiple of where attention is one kernel.

PyTorch's memory-efficient kernel reads the mask in vectors of this many elements; see `aligned`.
"""


class FrozenUpdate(nn.Module):
    """A low-rank update of the qkv projection: `x @ down @ up`, by parts where it is cut in two."""

    def __init__(self, down: torch.Tensor, *ups: torch.Tensor) -> None:
        super().__init__()
        self.down = nn.Parameter(down.float().contiguous(), requires_grad=False)
        self.ups = nn.ParameterList(
            nn.Parameter(up.float().contiguous(), requires_grad=False) for up in ups
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, N, C) to (B, N, 3C)."""
        return cast(torch.Tensor, x @ self.down @ self.ups[0])

    def cut(self, x: torch.Tensor, queries: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Map (B, N, C) to the query's (B, queries, C) and to (B, N, 2C) of key and value."""
        inner = x @ self.down
        return inner[:, :queries] @ self.ups[0], inner @ self.ups[1]


class FrozenAttention(nn.Module):
    """Attention in the form of `FreezeOptions.attention`; queries may be fewer than keys.

    With all queries one projection makes q, k and v; with fewer, the query has its own.
    """

    def __init__(self, block: Block, options: FreezeOptions, *, queries: int | None) -> None:
        super().__init__()
        attention = block.attn
        edited = attention.qkv
        if options.updates == "folded":
            require_folded(edited)
        gated = gated_rows(edited)
        qkv = base_of(edited)
        width = qkv.in_features
        self.queries, self.heads = queries, attention.heads
        self.head_width = width // attention.heads
        # A gate measures the query as it was trained: without the scale of the attention in it.
        self.split_scale = options.attention_scale == "split" or bool(gated)
        self.fused = options.attention == "fused"
        weight: torch.Tensor = qkv.weight
        bias = bias_of(qkv)
        # A gate reads queries and keys as they were trained, and so do updates that are inputs.
        reorders = attention.pairs is not None and options.updates == "folded" and not gated
        self.pairs = "halves" if reorders else attention.pairs
        order = _by_halves(attention) if reorders else torch.arange(3 * width)
        factor = torch.ones(3 * width, dtype=torch.float64)
        scale = 1.0 if self.split_scale else self.head_width**-0.5
        self.qk_norm = attention.qk_norm
        if attention.qk_norm:  # a norm does not see the length of what it reads
            channels = order[: self.head_width]
            self.q_norm = _scaled_norm(attention.q_norm, scale, channels)
            self.k_norm = _scaled_norm(attention.k_norm, 1.0, channels)
        elif not self.split_scale:
            factor[:width] = scale
            weight = (weight.double() * factor[:, None]).float()
            bias = (bias.double() * factor).float()
        if reorders:
            weight, bias = weight[order], bias[order]
        # A gate over query, key and value needs all three of a token.
        self.cuts = queries is not None and all(
            rows.indices(3 * width)[1] <= width or rows.indices(3 * width)[0] >= width
            for _, rows in gated
        )
        self.qkv_gates = self.query_gates = self.key_value_gates = None
        if not self.cuts:
            self.qkv = linear(weight, bias)
            self.qkv_gates = gates_of(edited, bias) if gated else None
        else:
            self.query = linear(weight[:width], bias[:width])
            self.key_value = linear(weight[width:], bias[width:])
            if gated:
                self.query_gates = gates_of(edited, bias, rows=(0, width))
                self.key_value_gates = gates_of(edited, bias, rows=(width, 3 * width))
        self.updates = nn.ModuleList()
        if isinstance(edited, Edited) and not gated:
            down, up = edited.as_product()
            parts = [width, 2 * width] if self.cuts else [3 * width]
            up = (up * factor)[:, order]
            self.updates.append(FrozenUpdate(down, *torch.split(up, parts, dim=1)))
        self.norm = attention.norm if attention.attention_norm else None
        gamma = block.ls1.gamma if block.layer_scale else None
        self.proj, self.proj_gates, self.gamma = with_gates(attention.proj, gamma)
        self.prompts: nn.ParameterList | None = None
        if block.prompts is not None:
            self.prompts = nn.ParameterList(_prompt_keys_and_values(block))

    def forward(
        self, x: torch.Tensor, key_bias: torch.Tensor | None, turn: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Attend from the queried tokens of (B, N, C) to all of them; return (B, queries, C).

        Args:
            x: Normalised tokens.
            key_bias: (B, 1, 1, N) or None.
            turn: (2, B, H, N, D/2) sines and cosines, see `fpet_export.model.rotary`, or None.
        """
        if not self.cuts:
            projected = self.qkv(x)
            for update in self.updates:
                projected = projected + update(x)
            if self.qkv_gates is not None:
                projected = self.qkv_gates(x, projected)
            q, k, v = self._heads_of(projected, 3)
            q = q if self.queries is None else q[:, :, : self.queries]
        else:
            assert self.queries is not None
            query, key_value = self.query(x[:, : self.queries]), self.key_value(x)
            for update in self.updates:
                parts = cast(FrozenUpdate, update).cut(x, self.queries)
                query, key_value = query + parts[0], key_value + parts[1]
            if self.query_gates is not None:
                query = self.query_gates(x[:, : self.queries], query)
            if self.key_value_gates is not None:
                key_value = self.key_value_gates(x, key_value)
            (q,) = self._heads_of(query, 1)
            k, v = self._heads_of(key_value, 2)
        if self.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        if self.pairs is not None:
            assert turn is not None
            if self.queries is None:  # fewer queries are prefix tokens, which are not turned
                q = turned(q, turn, self.pairs)
            k = turned(k, turn, self.pairs)
        if self.prompts is not None:
            k, v = (
                torch.cat([own, prompts.expand(len(own), -1, -1, -1)], dim=2)
                for own, prompts in zip((k, v), self.prompts, strict=True)
            )
            if key_bias is not None:  # a prompt has size one
                key_bias = F.pad(key_bias, (0, self.prompts[0].shape[2]))
                key_bias = aligned(key_bias) if self.fused else key_bias
        mixed = (self._fused if self.fused else self._primitive)(q, k, v, key_bias).transpose(1, 2)
        shape = (x.shape[0], q.shape[2], self.heads * self.head_width)
        mixed = mixed.reshape(shape) if self.norm is None else self.norm(mixed.reshape(shape))
        return projected_by(self.proj, self.proj_gates, self.gamma, mixed)

    def _primitive(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, key_bias: torch.Tensor | None
    ) -> torch.Tensor:
        """Attend with (B, H, queries, D) to keys and values (B, H, N, D)."""
        if self.split_scale:
            scale = self.head_width**-0.25
            q, k = q * scale, k * scale
        logits = q @ k.transpose(-2, -1)
        if key_bias is not None:
            logits = logits + key_bias
        return logits.softmax(dim=-1) @ v

    def _fused(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, key_bias: torch.Tensor | None
    ) -> torch.Tensor:
        """Do the same in one operator, whose scale is free."""
        scale = self.head_width**-0.5 if self.split_scale else 1.0
        return F.scaled_dot_product_attention(q, k, v, attn_mask=key_bias, scale=scale)

    def _heads_of(self, projected: torch.Tensor, parts: int) -> tuple[torch.Tensor, ...]:
        """Cut (B, N, parts * C) into `parts` tensors (B, H, N, D)."""
        batch, tokens = projected.shape[:2]
        shape = (batch, tokens, parts, self.heads, self.head_width)
        return projected.reshape(shape).permute(2, 0, 3, 1, 4).unbind(0)


def _prompt_keys_and_values(block: Block) -> list[nn.Parameter]:
    """Return keys and values (1, H, P, D) of a block's prompts, which no image changes."""
    assert block.prompts is not None
    heads = block.attn.heads
    wide = copy.deepcopy(nn.Sequential(block.norm1, block.attn.qkv)).double()
    with torch.no_grad():
        _, *parts = wide(block.prompts.double()).chunk(3, dim=-1)
        keys, values = (p.reshape(1, len(p), heads, -1).transpose(1, 2) for p in parts)
        if block.attn.qk_norm:
            keys = copy.deepcopy(block.attn.k_norm).double()(keys)
    return [nn.Parameter(part.float().contiguous(), requires_grad=False) for part in (keys, values)]


class FrozenAttentionPool(nn.Module):
    """The attention pooling, whose one query is a constant."""

    def __init__(self, pool: AttentionPool, options: FreezeOptions) -> None:
        super().__init__()
        heads = pool.heads
        width = pool.proj.in_features // heads
        with torch.no_grad():
            query = copy.deepcopy(pool.q).double()(pool.latent.double()) * width**-0.5
        query = query.reshape(1, heads, 1, width)
        self.query = nn.Parameter(query.float().contiguous(), requires_grad=False)
        self.fused = options.attention == "fused"
        self.kv, self.proj, self.norm = pool.kv, pool.proj, pool.norm
        self.mlp = pool.mlp

    def forward(self, patches: torch.Tensor, key_bias: torch.Tensor | None) -> torch.Tensor:
        """Pool (B, P, C) to (B, C) with a key bias (B, 1, 1, P)."""
        batch, count, width = patches.shape
        heads, head_width = self.query.shape[1], self.query.shape[3]
        shape = (batch, count, 2, heads, head_width)
        k, v = self.kv(patches).reshape(shape).permute(2, 0, 3, 1, 4).unbind(0)
        if self.fused:
            query = self.query.expand(batch, -1, -1, -1)
            bias = None if key_bias is None else aligned(key_bias)
            mixed = F.scaled_dot_product_attention(query, k, v, attn_mask=bias, scale=1.0)
        else:
            logits = self.query @ k.transpose(-2, -1)
            logits = logits if key_bias is None else logits + key_bias
            mixed = logits.softmax(dim=-1) @ v
        x = self.proj(mixed.reshape(batch, width))
        return cast(torch.Tensor, x + self.mlp(self.norm(x)))


def _by_halves(attention: Attention) -> torch.Tensor:
    """Return (3C,) the outputs of the qkv projection so that halves of queries and keys turn."""
    width = base_of(attention.qkv).in_features
    assert attention.pairs is not None
    channels = by_halves(attention.pairs, width // attention.heads)
    order = torch.arange(3 * width).reshape(3, attention.heads, -1)
    order[:2] = order[:2, :, channels]
    return order.flatten()


def _scaled_norm(norm: nn.LayerNorm, scale: float, channels: torch.Tensor) -> nn.LayerNorm:
    """Return a norm that gives `scale` times what `norm` gives, with its channels in this order."""
    scaled_norm = copy.deepcopy(norm)
    scaled_norm.weight.data = (norm.weight.double() * scale).float()[channels]
    scaled_norm.bias.data = (norm.bias.double() * scale).float()[channels]
    return scaled_norm


def aligned(bias: torch.Tensor) -> torch.Tensor:
    """Return a (B, 1, 1, N) bias in memory whose rows begin at multiples of `ALIGNED` elements.

    Merging leaves an odd number of tokens, such as 99. With rows of that length every block of the
    network would copy the bias into longer rows, or its attention would not be one kernel.
    """
    tokens = bias.shape[-1]
    return F.pad(bias, (0, -tokens % ALIGNED))[..., :tokens]


def linear(weight: torch.Tensor, bias: torch.Tensor) -> nn.Linear:
    """Return a layer with these (out, in) weights and this bias."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    layer.weight = nn.Parameter(weight, requires_grad=False)
    layer.bias = nn.Parameter(bias, requires_grad=False)
    return layer


def base_of(layer: nn.Module) -> nn.Linear:
    """Return a linear layer without the edits that it may have."""
    return cast(nn.Linear, layer.layer if isinstance(layer, Edited) else layer)


def bias_of(layer: nn.Linear) -> torch.Tensor:
    """Return the (out,) bias of a layer; zeros where there is none."""
    return layer.weight.new_zeros(len(layer.weight)) if layer.bias is None else layer.bias


def with_gates(
    layer: nn.Module, gamma: torch.Tensor | None
) -> tuple[nn.Linear, FrozenGates | None, nn.Parameter | None]:
    """Return a linear layer, its gated updates, and the layer scale that stands behind those.

    Without gates the layer scale is inside the layer.
    """
    require_folded(layer)
    base = base_of(layer)
    gates = gates_of(layer, bias_of(base))
    if gates is None:
        return scaled(base, gamma), None, None
    return base, gates, None if gamma is None else nn.Parameter(gamma, requires_grad=False)


def projected_by(
    layer: nn.Linear, gates: FrozenGates | None, gamma: torch.Tensor | None, x: torch.Tensor
) -> torch.Tensor:
    """Apply what `with_gates` has returned to (B, N, in)."""
    y: torch.Tensor = layer(x)
    y = y if gates is None else gates(x, y)
    return y if gamma is None else y * gamma


def scaled(layer: nn.Linear, gamma: torch.Tensor | None) -> nn.Linear:
    """Fold the (C,) layer scale behind `layer` into its weight and bias."""
    if gamma is None:
        return layer
    return linear(layer.weight * gamma[:, None], layer.bias * gamma)
