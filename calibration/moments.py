"""Second moments of what a linear reads: which of its inputs rise and fall together.

They stay in memory. C x C numbers a site, 0.5 GB for a ViT-B, are too many for a table.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


class Moments:
    """Sums over the rows that were seen at one site.

    Attributes:
        product: (C, C) sum of x xᵀ.
        total: (C,) sum of x.
        rows: How many were seen.
    """

    def __init__(self, width: int) -> None:
        self.product = np.zeros((width, width), np.float32)
        self.total = np.zeros(width, np.float64)
        self.rows = 0

    def add(self, values: NDArray[np.floating[Any]]) -> None:
        """Count the rows of an array (..., C)."""
        rows = values.reshape(-1, values.shape[-1]).astype(np.float32, copy=False)
        self.product += rows.T @ rows
        self.total += rows.sum(axis=0, dtype=np.float64)
        self.rows += len(rows)

    def covariance(self) -> NDArray[np.float64]:
        """Return (C, C), of the rows less their mean."""
        mean = self.total / max(self.rows, 1)
        spread = self.product.astype(np.float64) / max(self.rows, 1)
        found: NDArray[np.float64] = spread - np.outer(mean, mean)
        return found
