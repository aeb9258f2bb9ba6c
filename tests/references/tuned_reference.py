"""Fine-tuned ViTs in float64, written from the papers: every method as its own code computes it.

A method says what happens to what a layer reads (`before`), how a layer computes (`layer`) or what
happens to what it gives (`after`), by timm's name of the layer. Nothing is folded, and nothing of
the toolkit is used.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping

import numpy as np

Array = np.ndarray
Before = Callable[[str, Array], Array]
After = Callable[[str, Array, Array], Array]
Beside = Callable[[int, Array, Array], Array]
Enters = Callable[[int, Array], Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tuned:
    """A plain ViT whose head reads the class token, and what a method does to its layers.

    Attributes:
        weights: By timm's names.
        heads: Attention heads.
        depth: Blocks.
        patch: Side of a patch in pixels.
        before: Maps the name of a layer and what it reads to what it reads instead.
        after: Maps the name of a layer, what it read and what it gives to what it gives instead.
        beside: Maps a block, the tokens that its MLP's norm reads, and what the MLP adds to them,
            to what is added besides.
        beside_attention: Maps a block and the tokens that enter it to what is added to them with
            the attention.
        enters: Maps a block and the tokens that the one before left to those that enter it.
        merge_block: Block after whose attention every patch of even parity joins the patch of odd
            parity whose head-averaged key has the largest cosine with its own; None for none.
        protected: Tokens in front of the patches.
        eps: Of every LayerNorm.
    """

    weights: Mapping[str, Array]
    heads: int
    depth: int
    patch: int
    before: Before = lambda name, x: x
    after: After = lambda name, x, y: y
    beside: Beside = lambda block, x, y: 0 * y
    beside_attention: Enters = lambda block, x: 0 * x
    enters: Enters = lambda block, x: x
    merge_block: int | None = None
    protected: int = 1
    eps: float = 1e-6

    def logits(self, images: Array) -> Array:
        """Classify (I, 3, height, width) normalised pixels."""
        return np.stack([self._one(image.astype(np.float64)) for image in images])

    def _one(self, image: Array) -> Array:
        w, side = self.weights, self.patch
        rows, columns = image.shape[1] // side, image.shape[2] // side
        patches = [
            image[:, side * i : side * (i + 1), side * j : side * (j + 1)].ravel()
            for i in range(rows)
            for j in range(columns)
        ]
        tokens = self._linear("patch_embed", np.stack(patches), key="patch_embed.proj")
        x = np.concatenate([w["cls_token"][0], tokens]) + w["pos_embed"][0]
        sizes = None
        for block in range(self.depth):
            x = self.enters(block, x)
            normal = self._norm(f"blocks.{block}.norm1", x)
            attended, keys = self._attend(f"blocks.{block}.", normal, sizes)
            x = x + attended + self.beside_attention(block, x)
            if block == self.merge_block:
                x, sizes = self._merge(x, keys, rows, columns)
            hidden = self._linear(f"blocks.{block}.mlp.fc1", self._norm(f"blocks.{block}.norm2", x))
            hidden = 0.5 * hidden * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2)))
            added = self._linear(f"blocks.{block}.mlp.fc2", hidden)
            x = x + added + self.beside(block, x, added)
        return self._linear("head", self._norm("norm", x)[0])

    def _merge(self, x: Array, keys: Array, rows: int, columns: int) -> tuple[Array, Array]:
        """Return the tokens that stay, and how many each stands for."""
        place = {
            (i, j): self.protected + i * columns + j for i in range(rows) for j in range(columns)
        }
        starts = [(1, 0), (0, 1), (0, 0), (1, 1)]  # the first two are the odd ones, which stay
        order = [
            [place[i, j] for i in range(a, rows, 2) for j in range(b, columns, 2)]
            for a, b in starts
        ]
        stay, leave = order[0] + order[1], order[2] + order[3]
        unit = keys / np.sqrt((keys**2).sum(axis=1, keepdims=True))
        groups = {token: [token] for token in stay}
        for token in leave:
            scores = [unit[token] @ unit[other] for other in stay]
            groups[stay[int(np.argmax(scores))]].append(token)
        kept = [x[index] for index in range(self.protected)]
        sizes = [1.0] * self.protected + [float(len(group)) for group in groups.values()]
        return np.stack(kept + [x[group].mean(axis=0) for group in groups.values()]), np.array(
            sizes
        )

    def _attend(self, name: str, x: Array, sizes: Array | None) -> tuple[Array, Array]:
        """Return what the attention adds, and the keys averaged over the heads."""
        width = x.shape[1]
        size = width // self.heads
        qkv = self._linear(name + "attn.qkv", x)
        mixed = []
        for head in range(self.heads):
            q, k, v = (
                qkv[:, part * width + head * size : part * width + (head + 1) * size]
                for part in range(3)
            )
            scores = q @ k.T / math.sqrt(size)
            if sizes is not None:
                scores = scores + np.log(sizes)
            share = np.exp(scores - scores.max(axis=1, keepdims=True))
            mixed.append(share / share.sum(axis=1, keepdims=True) @ v)
        keys = qkv[:, width : 2 * width].reshape(len(x), self.heads, size).mean(axis=1)
        return self._linear(name + "attn.proj", np.concatenate(mixed, axis=1)), keys

    def _linear(self, name: str, x: Array, *, key: str | None = None) -> Array:
        weight, bias = self.weights[f"{key or name}.weight"], self.weights[f"{key or name}.bias"]
        x = self.before(name, x)
        return self.after(name, x, x @ weight.reshape(len(weight), -1).T + bias)

    def _norm(self, name: str, x: Array) -> Array:
        mean, variance = x.mean(axis=1, keepdims=True), x.var(axis=1, keepdims=True)
        normal = (x - mean) / np.sqrt(variance + self.eps)
        y = normal * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]
        return self.after(name, normal, y)
