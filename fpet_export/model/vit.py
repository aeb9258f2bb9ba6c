"""The plain vision transformer: timm's weight names, written out so that layers can be attached.

`Vit` is the eval-mode forward pass of the network that a `VitSpec` describes. What a fine-tune
changed takes the place of a layer (`fpet_export.model.attached.Edited`) or stands in
`Block.branches`, token merging in `Vit.merges`. The same forward serves the plain, the adapted and
the folded model.

Not covered, and refused by `fpet_export.model.backbones`: relative positions, and blocks with
parallel branches.

Source: Dosovitskiy et al. 2021, eq. 1 to 4; weight names of timm's `vision_transformer.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import nn
from torch.nn import functional as F

from fpet_export.model import rotary
from fpet_export.model.kept import BranchModule
from fpet_export.model.merging import Attended, Merged, Merger, Trace
from fpet_export.model.rotary import Turns, turned
from fpet_export.model.vit_spec import VitSpec


class Attention(nn.Module):
    """Multi-head self-attention with a fused qkv projection."""

    def __init__(self, spec: VitSpec) -> None:
        super().__init__()
        self.heads = spec.heads
        self.qkv = nn.Linear(spec.width, 3 * spec.width, bias=spec.qkv_bias)
        self.qk_norm = spec.qk_norm
        if spec.qk_norm:
            self.q_norm = nn.LayerNorm(spec.head_width, eps=spec.norm_eps)
            self.k_norm = nn.LayerNorm(spec.head_width, eps=spec.norm_eps)
        self.pairs = None if spec.rotary is None else spec.rotary.pairs
        self.whole_keys = spec.whole_keys
        self.attention_norm = spec.attention_norm
        if spec.attention_norm:
            self.norm = nn.LayerNorm(spec.width, eps=spec.norm_eps)
        self.proj = nn.Linear(spec.width, spec.width)

    def forward(
        self, x: torch.Tensor, key_bias: torch.Tensor | None, turn: torch.Tensor | None = None
    ) -> Attended:
        """Attend over (B, N, C).

        The keys are what queries are compared with: behind their norm, where they have one, and
        turned by their position, where they are.

        Args:
            x: Normalised tokens.
            key_bias: (B, 1, 1, N), added to the logits on the key axis, or None.
            turn: `Turns.of` this block, or None.
        """
        batch, tokens, width = x.shape
        shape = (batch, tokens, 3, self.heads, width // self.heads)
        q, k, v = self.qkv(x).reshape(shape).permute(2, 0, 3, 1, 4)
        if self.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        if self.pairs is not None:
            assert turn is not None
            q, k = turned(q, turn, self.pairs), turned(k, turn, self.pairs)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=key_bias)
        mixed = mixed.transpose(1, 2).reshape(batch, tokens, width)
        mixed = self.norm(mixed) if self.attention_norm else mixed
        return Attended(self.proj(mixed), q, k, key_bias)


class Mlp(nn.Module):
    """The two-layer perceptron of a block, or of the attention pooling."""

    def __init__(self, spec: VitSpec) -> None:
        super().__init__()
        self.fc1 = nn.Linear(spec.width, (2 if spec.gated else 1) * spec.hidden)
        self.normalises = spec.mlp_norm
        if spec.mlp_norm:
            self.norm = nn.LayerNorm(spec.hidden, eps=spec.norm_eps)
        self.fc2 = nn.Linear(spec.hidden, spec.width)
        self.activation: str = spec.activation
        self.gated = spec.gated

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, N, C) to (B, N, C)."""
        inner = activate(self.fc1(x), self.activation, gated=self.gated)
        inner = self.norm(inner) if self.normalises else inner
        return cast(torch.Tensor, self.fc2(inner))


def activate(x: torch.Tensor, activation: str, *, gated: bool = False) -> torch.Tensor:
    """Apply the MLP's activation.

    Exact or tanh GELU, ReLU, SiLU, or OpenAI's `x * sigmoid(1.702 x)`; where the MLP is gated, to
    the first half of the channels, which then multiplies the other half.
    """
    if gated:
        gate, values = x.chunk(2, dim=-1)
        return activate(gate, activation) * values
    if activation == "silu":
        return F.silu(x)
    if activation == "quick_gelu":
        return x * torch.sigmoid(1.702 * x)
    if activation == "relu":
        return F.relu(x)
    return F.gelu(x, approximate="tanh" if activation == "gelu_tanh" else "none")


def key_bias_of(size: torch.Tensor) -> torch.Tensor:
    """Return what (B, N, 1) sizes add to the logits of an attention, (B, 1, 1, N)."""
    return size.log().transpose(1, 2).unsqueeze(1)


class LayerScale(nn.Module):
    """A learned vector that multiplies a branch."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scale (B, N, C) channel by channel."""
        return x * self.gamma


class Block(nn.Module):
    """One pre-norm transformer block.

    `branches` holds what a fine-tune put beside its layers, see `fpet_export.model.kept`. `prompts`
    (P, C) are tokens that stand beside the others in this block alone.
    """

    def __init__(self, spec: VitSpec) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(spec.width, eps=spec.norm_eps)
        self.attn = Attention(spec)
        self.norm2 = nn.LayerNorm(spec.width, eps=spec.norm_eps)
        self.mlp = Mlp(spec)
        if spec.layer_scale:
            self.ls1, self.ls2 = LayerScale(spec.width), LayerScale(spec.width)
        self.layer_scale = spec.layer_scale
        self.branches = nn.ModuleDict()
        self.prompts: nn.Parameter | None = None

    def forward(
        self,
        x: torch.Tensor,
        size: torch.Tensor | None = None,
        merger: Merger | None = None,
        turn: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, Merged | None]:
        """Run the block; return tokens (B, N', C), and what the merger did.

        Args:
            x: (B, N, C) tokens.
            size: (B, N, 1) patches that each token stands for, or None while all are one.
            merger: Merges tokens between attention and MLP, or None.
            turn: `Turns.of` this block in a network with rotary positions, or None.
        """
        key_bias = None if size is None else key_bias_of(size)
        normalised = self.norm1(x)
        attended = self._attend(normalised, key_bias, turn)
        x = x + (self.ls1(attended.values) if self.layer_scale else attended.values)
        for branch in self.each_branch():
            if branch.reads == "norm1":
                x = x + branch(normalised)
        merged = None
        if merger is not None:
            merged = merger(x, attended, size)
            x = merged.tokens
        given = {"residual": x, "norm2": self.norm2(x)}
        hidden = self.mlp(given["norm2"])
        hidden = self.ls2(hidden) if self.layer_scale else hidden
        for branch in self.each_branch():
            hidden = hidden * branch(given[branch.reads]) if branch.gates else hidden
        given["mlp"], out = hidden, x + hidden
        for branch in self.each_branch():
            if branch.reads in given and not branch.gates:
                out = out + branch(given[branch.reads])
        return out, merged

    def each_branch(self) -> list[BranchModule]:
        """Return the branches in order."""
        return [cast(BranchModule, branch) for branch in self.branches.values()]

    def _attend(
        self, normalised: torch.Tensor, key_bias: torch.Tensor | None, turn: torch.Tensor | None
    ) -> Attended:
        """Attend to all tokens and to the prompts; what the block makes of those is not used."""
        if self.prompts is None:
            return cast(Attended, self.attn(normalised, key_bias, turn))
        tokens = normalised.shape[1]
        prompts = self.norm1(self.prompts).expand(len(normalised), -1, -1)
        normalised = torch.cat([normalised, prompts], dim=1)
        longer = None if key_bias is None else F.pad(key_bias, (0, prompts.shape[1]))  # size one
        found = self.attn(normalised, longer)
        return Attended(
            values=found.values[:, :tokens],
            queries=found.queries[:, :, :tokens],
            keys=found.keys[:, :, :tokens],
            key_bias=key_bias,
        )


class AttentionPool(nn.Module):
    """One learned query that attends to the patches, and an MLP: timm's `AttentionPoolLatent`."""

    def __init__(self, spec: VitSpec) -> None:
        super().__init__()
        self.heads = spec.heads
        self.latent = nn.Parameter(torch.zeros(1, 1, spec.width))
        self.q = nn.Linear(spec.width, spec.width)
        self.kv = nn.Linear(spec.width, 2 * spec.width)
        self.proj = nn.Linear(spec.width, spec.width)
        self.norm = nn.LayerNorm(spec.width, eps=spec.norm_eps)
        self.mlp = Mlp(spec)

    def forward(self, patches: torch.Tensor, key_bias: torch.Tensor | None) -> torch.Tensor:
        """Pool (B, P, C) to (B, C).

        Args:
            patches: Behind the last norm.
            key_bias: (B, 1, 1, P), the logarithm of how many patches each one stands for, or None.
        """
        batch, _, width = patches.shape
        shape = (batch, -1, self.heads, width // self.heads)
        q = self.q(self.latent.expand(batch, -1, -1)).reshape(shape).transpose(1, 2)
        k, v = (part.reshape(shape).transpose(1, 2) for part in self.kv(patches).chunk(2, dim=-1))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=key_bias)
        x = self.proj(mixed.transpose(1, 2).reshape(batch, width))
        return cast(torch.Tensor, x + self.mlp(self.norm(x)))


class PatchEmbed(nn.Module):
    """The patch projection; without padding, so that an affine map of the pixels folds into it."""

    def __init__(self, spec: VitSpec) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, spec.width, spec.patch, stride=spec.patch, bias=spec.patch_bias)
        self.branches = nn.ModuleDict()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map (B, 3, height, width) to (B, P, C)."""
        patches: torch.Tensor = self.proj(images).flatten(2).transpose(1, 2)
        for branch in self.branches.values():
            patches = patches + branch(patches)
        return patches


class Vit(nn.Module):
    """A vision transformer in eval mode; `state_dict` uses timm's names.

    Attributes:
        spec: What it is.
        merges: The merge of each block that has one, by its 0-based number in words.
    """

    def __init__(self, spec: VitSpec) -> None:
        super().__init__()
        self.spec = spec
        self.merges = nn.ModuleDict()
        self.patch_embed = PatchEmbed(spec)
        for name, count in prefix_parameters(spec).items():
            self.register_parameter(name, nn.Parameter(torch.zeros(1, count, spec.width)))
        if spec.absolute_positions:
            self.pos_embed = nn.Parameter(torch.zeros(1, spec.positions, spec.width))
        if spec.rotary is not None and spec.rotary.learned:
            self.rope = nn.ParameterDict(
                {"freqs": torch.zeros(2, spec.depth, spec.heads, spec.head_width // 2)}
            )
        norm = nn.LayerNorm(spec.width, eps=spec.norm_eps)
        if spec.pre_norm:
            self.norm_pre = nn.LayerNorm(spec.width, eps=spec.norm_eps)
        self.blocks = nn.ModuleList(Block(spec) for _ in range(spec.depth))
        if spec.pool_norm:
            self.fc_norm = norm
        elif spec.final_norm:
            self.norm = norm
        if spec.pool == "attention":
            self.attn_pool = AttentionPool(spec)
        if spec.head == "logits":
            self.head = nn.Linear(spec.features, spec.classes)
            if spec.pool == "class+dist":
                self.head_dist = nn.Linear(spec.width, spec.classes)

    def each_block(self) -> list[Block]:
        """Return the blocks in order."""
        return [cast(Block, block) for block in self.blocks]

    def merger_of(self, block: int) -> Merger | None:
        """Return the merge of a 0-based block, or None."""
        name = str(block)
        return cast(Merger, self.merges[name]) if name in self.merges else None

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """Turn normalised images (B, 3, height, width) into tokens (B, N, C)."""
        patches = self.patch_embed(images)
        prefix = prefix_tokens(self).expand(images.shape[0], -1, -1)
        patches = patches + patch_positions(self) if self.spec.absolute_positions else patches
        x = torch.cat([prefix, patches], dim=1)
        return cast(torch.Tensor, self.norm_pre(x)) if self.spec.pre_norm else x

    def turns(self) -> Turns | None:
        """Return by what queries and keys are turned before any merge; None where they are not."""
        spec = self.spec
        if spec.rotary is None:
            return None
        return rotary.turns(
            spec.rotary,
            spec.grid,
            prefix=len(spec.prefix),
            head_width=spec.head_width,
            frequencies=self.rope["freqs"] if spec.rotary.learned else None,
        )

    def places(self, match: Mapping[int, torch.Tensor]) -> torch.Tensor | None:
        """Return (B, P) which of the last patches each patch of the image is in, -1 where lost.

        None where nothing merges.

        Args:
            match: By block that merges, `Merged.match`.
        """
        found: torch.Tensor | None = None
        for block, matched in match.items():
            merger = self.merger_of(block)
            assert merger is not None
            now = merger.places(matched)
            if found is not None:
                now = now.gather(1, found.clamp(min=0)).where(found >= 0, -1)
            found = now
        return found

    def classify(
        self,
        x: torch.Tensor,
        size: torch.Tensor | None,
        places: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Turn the last block's tokens (B, N, C) into what the network gives; see `VitSpec.head`.

        A mean over merged patches is weighted by their sizes, so that every patch counts once.

        Args:
            x: The tokens.
            size: (B, N, 1) patches that each of them stands for, or None while all are one.
            places: As `places` gives them, for a network that gives tokens. The token of a patch
                that was lost is zero.
        """
        spec = self.spec
        if spec.final_norm and not spec.pool_norm:
            x = self.norm(x)
        pooled, patches = x[:, 0], x[:, len(spec.prefix) :]
        if spec.head == "tokens":
            if places is None:
                return patches
            index = places.clamp(min=0).unsqueeze(-1).expand(-1, -1, spec.width)
            return patches.gather(1, index) * (places >= 0).unsqueeze(-1)
        if spec.pool == "attention":
            bias = None if size is None else key_bias_of(size)[..., len(spec.prefix) :]
            pooled = self.attn_pool(patches, bias)
        elif spec.read_tokens is None:
            if size is None:
                mean = patches.mean(dim=1)
            else:
                weight = size[:, len(spec.prefix) :]
                mean = (patches * weight).sum(dim=1) / weight.sum(dim=1)
            pooled = mean if spec.pool == "mean" else torch.cat([pooled, mean], dim=1)
        if spec.pool_norm:
            pooled = self.fc_norm(pooled)
        if spec.head == "features":
            return (pooled + x[:, 1]) / 2 if spec.pool == "class+dist" else pooled
        logits = self.head(pooled)
        if spec.pool == "class+dist":
            logits = (logits + self.head_dist(x[:, 1])) / 2
        return cast(torch.Tensor, logits)

    def forward(self, images: torch.Tensor, trace: Trace | None = None) -> torch.Tensor:
        """Run normalised images (B, 3, height, width); return logits (B, K), or see `classify`."""
        x, size, turns = self.embed(images), None, self.turns()
        match: dict[int, torch.Tensor] = {}
        for index, block in enumerate(self.each_block()):
            merger = self.merger_of(index)
            x, merged = block(x, size, merger, turns and turns.of(index))
            if merged is not None:
                size, match[index] = merged.size, merged.match
                turns = turns_after(turns, merger, merged)
            if trace is not None:
                trace.tokens.append(x.shape[1])
                if merged is not None:
                    trace.add(index, merged)
        return self.classify(x, size, self.places(match) if self.spec.head == "tokens" else None)


def turns_after(turns: Turns | None, merger: Merger | None, merged: Merged | None) -> Turns | None:
    """Return by what the tokens of the next block are turned, where the network turns any."""
    if turns is None or merger is None or merged is None:
        return turns
    return turns.taken(merger.takes(merged.match))


PROMPTS = "prompt_token"
"""Parameter of the prompts, which timm has no name for."""


def prefix_tokens(model: Vit) -> torch.Tensor:
    """Return what stands in front of the patches of every image, (1, tokens, C)."""
    spec = model.spec
    kinds = [getattr(model, name) for name in prefix_parameters(spec)]
    none = next(model.parameters()).new_zeros(1, 0, spec.width)
    tokens = torch.cat([*kinds, none], dim=1)
    if not (spec.absolute_positions and spec.position_covers_prefix):
        return tokens
    positions = model.pos_embed
    own = len(spec.prefix) - spec.prompts
    return torch.cat([tokens[:, :own] + positions[:, :own], tokens[:, own:]], dim=1)


def patch_positions(model: Vit) -> torch.Tensor:
    """Return what is added to the patches, (1, P, C), in a network with absolute positions."""
    return model.pos_embed[:, model.spec.positions - model.spec.patches :]


def prefix_parameters(spec: VitSpec) -> dict[str, int]:
    """Return timm's parameter name and token count of each kind of prefix token, in order."""
    names = {"cls": "cls_token", "dist": "dist_token", "reg": "reg_token", "prompt": PROMPTS}
    counts: dict[str, int] = {}
    for kind in spec.prefix:
        counts[names[kind]] = counts.get(names[kind], 0) + 1
    return counts


def empty_vit(spec: VitSpec) -> Vit:
    """Return a `Vit` whose parameters take no memory until weights are assigned."""
    with torch.device("meta"):
        return Vit(spec).eval().requires_grad_(False)
