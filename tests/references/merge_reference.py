"""ToMe and DiffRate in float64 loops over the tokens of one image, from their papers.

They share no line with `fpet_export`: Bolya et al. 2023, section 3 (bipartite soft matching, merged
tokens weighted by their sizes), and Chen et al. 2023, section 3 (class attention as importance,
pruning, merging into the most similar token that stays, similarity-weighted sizes).
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Left:
    """Tokens, their sizes, and of each the patches that enter which are in it."""

    tokens: list[Array]
    sizes: list[float]
    inside: list[list[int]]


def cosine(u: Array, v: Array) -> float:
    return float(u @ v) / math.sqrt(float(u @ u) * float(v @ v))


def tome(tokens: list[Array], keys: list[Array], sizes: list[float], r: int, prefix: int) -> Left:
    """Merge the r most similar pairs; `keys` are the head averages."""
    count = len(tokens)
    set_a = [i for i in range(prefix, count) if i % 2 == 0]
    set_b = [i for i in range(prefix, count) if i % 2 == 1]
    pairs = []
    for i in set_a:
        similar = [cosine(keys[i], keys[j]) for j in set_b]
        best = max(similar)
        pairs.append((best, i, set_b[similar.index(best)]))
    pairs.sort(key=lambda pair: (-pair[0], pair[1]))
    joins = {i: j for _, i, j in pairs[:r]}
    order = list(range(prefix)) + [i for i in set_a if i not in joins] + set_b
    inside = [[i, *(a for a in set_a if joins.get(a) == i)] for i in order]
    out, total = [], []
    for group in inside:
        weight = sum(sizes[i] for i in group)
        out.append(np.sum([sizes[i] * tokens[i] for i in group], axis=0) / weight)
        total.append(weight)
    return Left(out, total, inside)


def diffrate(
    tokens: list[Array],
    importance: list[float],
    sizes: list[float],
    unpruned: int,
    kept: int,
    prefix: int,
) -> Left:
    """Keep `kept` tokens of `unpruned`, counted with the prefix; the others of these join one."""
    ranked = sorted(range(prefix, len(tokens)), key=lambda i: (-importance[i], i))
    stays = sorted(ranked[: kept - prefix])
    joins = ranked[kept - prefix : unpruned - prefix]
    into: dict[int, list[int]] = {i: [] for i in stays}
    total = dict(enumerate(sizes))
    for i in joins:
        similar = [cosine(tokens[i], tokens[j]) for j in stays]
        best = max(similar)
        target = stays[similar.index(best)]
        into[target].append(i)
        total[target] += sizes[i] * best
    order = [*range(prefix), *stays]
    inside = [[i, *into.get(i, [])] for i in order]
    out = [np.mean([tokens[i] for i in group], axis=0) for group in inside]
    return Left(out, [total[i] for i in order], inside)
