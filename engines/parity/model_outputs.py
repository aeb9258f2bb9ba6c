"""What a model said about a set of images."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating[Any]]
IntArray = NDArray[np.int64]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelOutputs:
    """What one model, graph or engine said about a set of images.

    Attributes:
        logits: (I, K).
        match: (I, Na) where each token went that a merge decides about, negative where it joined
            none; of several blocks that merge, side by side. None without merge or where the
            artefact does not show it.
        margin: (I, Na) by how much each decision was won, from the reference only.
        sources: Columns of `match` of each block that merges, in order; may be empty for one.
        size: (I, N) patches that each token stands for after the last merge, prefix included.
        score_error: (I, Na) how far the artefact's keys can have moved the difference of two
            scores of this A token; None where it does not show its keys. A flip within it is
            the keys' rounding, a flip beyond it a wrong match.
    """

    logits: FloatArray
    match: IntArray | None = None
    margin: FloatArray | None = None
    sources: tuple[int, ...] = ()
    size: FloatArray | None = None
    score_error: FloatArray | None = None

    @classmethod
    def joined(cls, parts: Sequence[ModelOutputs]) -> ModelOutputs:
        """Return what was said about all images, part after part."""
        whole: dict[str, Any] = {}
        for name in _ARRAYS:
            values = [getattr(part, name) for part in parts]
            whole[name] = None if values[0] is None else np.concatenate(values)
        return cls(**whole, sources=parts[0].sources)

    def first(self, count: int) -> ModelOutputs:
        """Return what was said about the first `count` images."""
        return self.at(np.arange(min(count, len(self.logits))))

    def at(self, chosen: IntArray) -> ModelOutputs:
        """Return what was said about the images with these numbers."""
        few: dict[str, Any] = {}
        for name in _ARRAYS:
            value = getattr(self, name)
            few[name] = None if value is None else value[chosen]
        return ModelOutputs(**few, sources=self.sources)


_ARRAYS = tuple(field.name for field in dataclasses.fields(ModelOutputs) if field.name != "sources")
"""Fields with a row for every image."""
