"""A slow ViT with FPET, in numpy, float64 and loops, written from the papers' equations.

It shares no line with `fpet_export`: a vision transformer (Dosovitskiy et al. 2021, eq. 1 to 4),
the token merge of Kim et al., CVPR 2025 (checkerboard, refined keys, hard match, proportional
attention), AdaptFormer beside the MLP on the merged residual, LoRA on the query and the value.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Network:
    """Weights by timm's names, and what the names do not say."""

    weights: Mapping[str, Array]
    heads: int
    depth: int
    patch: tuple[int, int]
    prefix: tuple[str, ...]
    pool: str
    eps: float = 1e-6
    quick_gelu: bool = False
    merge_block: int | None = None
    refinement: tuple[Array, Array] | None = None
    adapters: tuple[Mapping[str, Array], ...] = ()
    scale: float = 0.0
    proportional: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
    """Logits of one image, and what the merge did."""

    logits: Array
    match: list[int]
    margin: list[float]
    size: list[float]
    tokens: list[int]


def checkerboard(rows: int, columns: int) -> tuple[list[int], list[int]]:
    """Raster patch indices of set A (row and column of equal parity) and of set B."""

    def where(row_parity: int, column_parity: int) -> list[int]:
        return [
            i * columns + j
            for i in range(rows)
            for j in range(columns)
            if i % 2 == row_parity and j % 2 == column_parity
        ]

    return where(0, 0) + where(1, 1), where(1, 0) + where(0, 1)


def layer_norm(x: Array, weight: Array, bias: Array, eps: float) -> Array:
    mean = x.sum() / len(x)
    variance = ((x - mean) ** 2).sum() / len(x)
    return np.asarray((x - mean) / math.sqrt(variance + eps) * weight + bias)


def gelu(x: Array) -> Array:
    return np.array([0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in x])


def softmax(x: Array) -> Array:
    exponential = np.exp(x - x.max())
    return np.asarray(exponential / exponential.sum())


def published_match(scores: Array) -> list[int]:
    """`sigmoid(score - (v1 + v2) / 2) > 0.5` by row; -1 where nothing exceeds it (a tie)."""
    found = []
    for row in scores:
        if len(row) == 1:
            found.append(0)
            continue
        v2, v1 = sorted(row)[-2:]
        theta = (v1 + v2) / 2
        hits = [j for j, v in enumerate(row) if 1 / (1 + math.exp(-(v - theta))) > 0.5]
        assert len(hits) <= 1, "no row can have two matches"
        found.append(hits[0] if hits else -1)
    return found


def merge(
    tokens: list[Array], keys: list[Array], net: Network, grid: tuple[int, int]
) -> tuple[list[Array], list[float], list[int], list[float]]:
    """Merge set A into set B by the head-averaged, refined keys of every token."""
    skip = len(net.prefix)
    set_a, set_b = checkerboard(*grid)
    metric = []
    for key in keys:  # (H, D) of one token
        mean = key.mean(axis=0)
        if net.refinement is not None:
            down, up = net.refinement
            mean = mean + up @ np.maximum(down @ mean, 0)
        metric.append(mean / math.sqrt(float(mean @ mean)))
    scores = np.array([[metric[skip + a] @ metric[skip + b] for b in set_b] for a in set_a])
    match = published_match(scores)
    ordered = [sorted(row)[::-1] for row in scores]
    margin = [row[0] - row[1] if len(row) > 1 else math.inf for row in ordered]
    merged: list[Array] = []
    sizes: list[float] = []
    for j, b in enumerate(set_b):
        total, count = tokens[skip + b].copy(), 1.0
        for i, a in enumerate(set_a):
            if match[i] == j:
                total = total + tokens[skip + a]
                count += 1
        merged.append(total / count)
        sizes.append(count)
    return tokens[:skip] + merged, [1.0] * skip + sizes, match, margin


def classify(net: Network, image: Array) -> Answer:
    """Classify one normalised image (3, height, width)."""
    w = net.weights
    kernel = w["patch_embed.proj.weight"]
    height, width = net.patch
    grid = image.shape[1] // height, image.shape[2] // width
    patches = []
    for i in range(grid[0]):
        for j in range(grid[1]):
            window = image[:, i * height : (i + 1) * height, j * width : (j + 1) * width]
            token = kernel.reshape(len(kernel), -1) @ window.ravel()
            patches.append(token + w.get("patch_embed.proj.bias", np.zeros(len(kernel))))
    prefix: list[Array] = []
    if "cls" in net.prefix:
        prefix.append(w["cls_token"][0, 0])
    if "dist" in net.prefix:
        prefix.append(w["dist_token"][0, 0])
    prefix += [w["reg_token"][0, i] for i in range(net.prefix.count("reg"))]
    position = w["pos_embed"][0]
    if len(position) == len(patches):
        x = prefix + [t + p for t, p in zip(patches, position, strict=True)]
    else:
        x = [t + p for t, p in zip(prefix + patches, position, strict=True)]
    if "norm_pre.weight" in w:
        x = [layer_norm(t, w["norm_pre.weight"], w["norm_pre.bias"], net.eps) for t in x]
    sizes: list[float] | None = None
    match: list[int] = []
    margin: list[float] = []
    counts = []
    for index in range(net.depth):
        x, keys = _attend(net, index, x, sizes if net.proportional else None)
        if index == net.merge_block:
            x, sizes, match, margin = merge(x, keys, net, grid)
        x = [_mlp(net, index, t) for t in x]
        counts.append(len(x))
    logits = _head(net, x, sizes)
    return Answer(logits=logits, match=match, margin=margin, size=sizes or [], tokens=counts)


def _attend(
    net: Network, index: int, x: list[Array], sizes: list[float] | None
) -> tuple[list[Array], list[Array]]:
    name = f"blocks.{index}."
    w, width = net.weights, len(x[0])
    d = width // net.heads
    queries, keys, values = [], [], []
    for token in x:
        h = layer_norm(token, w[name + "norm1.weight"], w[name + "norm1.bias"], net.eps)
        qkv = w[name + "attn.qkv.weight"] @ h + w.get(name + "attn.qkv.bias", np.zeros(3 * width))
        q, k, v = qkv[:width], qkv[width : 2 * width], qkv[2 * width :]
        if net.adapters and "attn.lora_q.adapter_down" in net.adapters[index]:
            f = net.adapters[index]
            q = q + net.scale * f["attn.lora_q.adapter_up"] @ (f["attn.lora_q.adapter_down"] @ h)
            v = v + net.scale * f["attn.lora_v.adapter_up"] @ (f["attn.lora_v.adapter_down"] @ h)
        queries.append(q.reshape(net.heads, d))
        keys.append(k.reshape(net.heads, d))
        values.append(v.reshape(net.heads, d))
    by_head = [np.stack([key[head] for key in keys]) for head in range(net.heads)]
    out = []
    for i, token in enumerate(x):
        mixed = []
        for head in range(net.heads):
            logits = by_head[head] @ queries[i][head] / math.sqrt(d)
            if sizes is not None:
                logits = logits + np.log(sizes)
            share = softmax(logits)
            mixed.append(sum(s * value[head] for s, value in zip(share, values, strict=True)))
        y = w[name + "attn.proj.weight"] @ np.concatenate(mixed) + w[name + "attn.proj.bias"]
        out.append(token + y * w.get(name + "ls1.gamma", np.ones(width)))
    return out, keys


def _mlp(net: Network, index: int, token: Array) -> Array:
    name = f"blocks.{index}."
    w = net.weights
    h = layer_norm(token, w[name + "norm2.weight"], w[name + "norm2.bias"], net.eps)
    h = w[name + "mlp.fc1.weight"] @ h + w[name + "mlp.fc1.bias"]
    h = h / (1 + np.exp(-1.702 * h)) if net.quick_gelu else gelu(h)
    h = w[name + "mlp.fc2.weight"] @ h + w[name + "mlp.fc2.bias"]
    out = token + h * w.get(name + "ls2.gamma", np.ones(len(h)))
    if net.adapters and "adapter_mlp.adapter_down" in net.adapters[index]:
        f = net.adapters[index]
        inner = np.maximum(f["adapter_mlp.adapter_down"] @ token, 0)
        out = out + net.scale * f["adapter_mlp.adapter_up"] @ inner
    return np.asarray(out)


def _head(net: Network, x: list[Array], sizes: list[float] | None) -> Array:
    w = net.weights
    pool_norm = "fc_norm.weight" in w
    if not pool_norm and "norm.weight" in w:
        x = [layer_norm(t, w["norm.weight"], w["norm.bias"], net.eps) for t in x]
    pooled = x[0]
    if net.pool in ("mean", "class+mean"):
        skip = len(net.prefix)
        weight = [1.0] * (len(x) - skip) if sizes is None else sizes[skip:]
        total = sum(s * t for s, t in zip(weight, x[skip:], strict=True))
        mean = np.asarray(total / sum(weight))
        pooled = mean if net.pool == "mean" else np.concatenate([pooled, mean])
    if pool_norm:
        pooled = layer_norm(pooled, w["fc_norm.weight"], w["fc_norm.bias"], net.eps)
    logits = w["head.weight"] @ pooled + w["head.bias"]
    if net.pool == "class+dist":
        logits = (logits + w["head_dist.weight"] @ x[1] + w["head_dist.bias"]) / 2
    return np.asarray(logits)
