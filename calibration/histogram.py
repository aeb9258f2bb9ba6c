"""A histogram of magnitudes that grows with its data and merges without loss.

The range is a power of two. A larger value doubles it, and two neighbouring bins become one; so
the bins of a wide histogram are unions of those of a narrow one, and the counts depend neither on
the order of the data nor on how it was split over machines.
"""

from __future__ import annotations

import base64
import dataclasses
import math
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 4096
"""Between 2048 and 4096 of them hold data: 16 to 32 bins for each step of an INT8 scale."""

_LEAST_EXPONENT = -114
"""Of the upper end, for zeros and what is next to them: `BINS` over it is still a float32."""

Counts = NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Histogram:
    """Counts of |x| in `BINS` equal bins over 0..2^exponent.

    Attributes:
        counts: (BINS,); values that are exactly zero are in the first bin.
        exponent: Base-2 logarithm of the upper end.
        largest: The largest |x| seen, exactly.
    """

    counts: Counts
    exponent: int
    largest: float

    @property
    def total(self) -> int:
        """How many values were seen."""
        return int(self.counts.sum())

    @property
    def edges(self) -> NDArray[np.float64]:
        """(BINS + 1,) borders of the bins."""
        return np.linspace(0.0, 2.0**self.exponent, BINS + 1)

    @property
    def centres(self) -> NDArray[np.float64]:
        """(BINS,) middles of the bins."""
        return (np.arange(BINS) + 0.5) * 2.0**self.exponent / BINS

    @property
    def tail(self) -> float:
        """How many times as large the largest value is as the one that 99.9 % stay below."""
        reached = np.cumsum(self.counts) >= 0.999 * self.total
        border = float(self.edges[int(np.argmax(reached)) + 1])
        return self.largest / border if self.largest else 0.0

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Histogram)
            and (self.exponent, self.largest) == (other.exponent, other.largest)
            and np.array_equal(self.counts, other.counts)
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; the counts as compressed bytes in base64."""
        packed = zlib.compress(self.counts.astype("<i8").tobytes(), 9)
        return {
            "largest": self.largest,
            "exponent": self.exponent,
            "counts": base64.b64encode(packed).decode("ascii"),
        }

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Histogram:
        """Read what `to_json` wrote.

        Raises:
            ValueError: It is not whole, or its parts contradict each other.
        """
        limit = BINS * 8
        expand = zlib.decompressobj()
        packed = base64.b64decode(str(document["counts"]), validate=True)
        try:
            content = expand.decompress(packed, limit + 1)
        except zlib.error as error:
            raise ValueError(f"the counts are damaged: {error}") from error
        if len(content) != limit:
            raise ValueError(f"{len(content)} bytes of counts, wanted {limit}")
        counts = np.frombuffer(content, "<i8").astype(np.int64)
        largest = float(document["largest"])
        if not 0 <= largest <= float(np.finfo(np.float32).max):
            raise ValueError(f"the largest value is {largest}")
        exponent = _exponent_of(largest)
        filled = np.flatnonzero(counts)
        last = int(filled[-1]) if filled.size else 0
        top = int(largest * float(_bins_per_unit(exponent)))
        if (counts < 0).any() or document["exponent"] != exponent or last != top:
            raise ValueError("the counts do not fit the range")
        return cls(counts, exponent, largest)


def of_values(values: NDArray[np.floating[Any]]) -> Histogram:
    """Count the magnitudes of an array.

    Raises:
        ValueError: A value is not finite.
    """
    magnitudes = np.abs(values, dtype=np.float32).ravel()
    largest = float(magnitudes.max()) if magnitudes.size else 0.0
    if not math.isfinite(largest):
        raise ValueError("a value is not finite")
    exponent = _exponent_of(largest)
    # A float32 times a power of two is exact, so the place of a value never depends on rounding.
    places = (magnitudes * _bins_per_unit(exponent)).astype(np.int32)
    return Histogram(np.bincount(places, minlength=BINS).astype(np.int64), exponent, largest)


def merged(first: Histogram, second: Histogram) -> Histogram:
    """Return the histogram of both sets of values."""
    exponent = max(first.exponent, second.exponent)
    counts = _widened(first, exponent) + _widened(second, exponent)
    return Histogram(counts, exponent, max(first.largest, second.largest))


def _widened(histogram: Histogram, exponent: int) -> Counts:
    counts = histogram.counts
    for _ in range(min(exponent - histogram.exponent, BINS.bit_length() - 1)):
        pairs = counts.reshape(-1, 2).sum(axis=1)
        counts = np.concatenate([pairs, np.zeros(BINS - len(pairs), np.int64)])
    return counts


def _exponent_of(largest: float) -> int:
    """Return the smallest power of two that is above `largest`, at least `_LEAST_EXPONENT`."""
    return max(math.frexp(largest)[1], _LEAST_EXPONENT) if largest > 0 else _LEAST_EXPONENT


def _bins_per_unit(exponent: int) -> np.float32:
    return np.float32(BINS * 2.0**-exponent)
