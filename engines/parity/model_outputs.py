"""What a model said about a set of images."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.manifest import Head

FloatArray = NDArray[np.floating[Any]]
IntArray = NDArray[np.int64]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelOutputs:
    """What one model, graph or engine said about a set of images.

    Attributes:
        logits: (I, K) logits; of a network without a classifier what it gives in their place,
            (I, F) features or (I, P, C) tokens.
        match: (I, Na) where each token went that a merge decides about, negative where it joined
            none; of several blocks that merge, side by side. None without merge or where the
            artefact does not show it.
        margin: (I, Na) by how much each decision was won, from the reference only.
        sources: Columns of `match` of each block that merges, in order; may be empty for one.
        size: (I, N) patches that each token stands for after the last merge, prefix included.
        unsupported: (I, Na) which decisions do not follow from the keys that the artefact itself
            compared; None where it does not show them. Another decision than the reference's is
            the keys' rounding where it follows, and a wrong match where it does not.
        head: What `logits` holds.
    """

    logits: FloatArray
    match: IntArray | None = None
    margin: FloatArray | None = None
    sources: tuple[int, ...] = ()
    size: FloatArray | None = None
    unsupported: NDArray[np.bool_] | None = None
    head: Head = "logits"

    @property
    def flat(self) -> FloatArray:
        """`logits` with one row an image, (I, K)."""
        return self.logits.reshape(len(self.logits), -1)

    @property
    def vectors(self) -> FloatArray:
        """`logits` with one row a vector: of an image, or of each of its patches."""
        return self.logits.reshape(-1, self.logits.shape[-1])

    @classmethod
    def joined(cls, parts: Sequence[ModelOutputs]) -> ModelOutputs:
        """Return what was said about all images, part after part."""
        whole: dict[str, Any] = {}
        for name in _arrays(parts[0]):
            whole[name] = np.concatenate([getattr(part, name) for part in parts])
        return cls(**whole, sources=parts[0].sources, head=parts[0].head)

    def first(self, count: int) -> ModelOutputs:
        """Return what was said about the first `count` images."""
        return self.at(np.arange(min(count, len(self.logits))))

    def at(self, chosen: IntArray) -> ModelOutputs:
        """Return what was said about the images with these numbers."""
        few: dict[str, Any] = {name: getattr(self, name)[chosen] for name in _arrays(self)}
        return ModelOutputs(**few, sources=self.sources, head=self.head)


def _arrays(outputs: ModelOutputs) -> list[str]:
    """Return the names of the arrays that there are."""
    fields = vars(outputs).items()
    return [name for name, value in fields if isinstance(value, np.ndarray)]
