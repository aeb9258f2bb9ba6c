"""What rounding explains of the difference between half precision and the reference.

`calibration.rounding` measures it on the float32 graph: the error of the median image that the
unit roundoff alone makes, as a share of the size of the logits. A graph in half precision is held
to a multiple of that. The median and not the power of all errors: where two partners of a merge
nearly tie, rounding sends a token elsewhere, and a few such images outweigh all others. How the
factors were found is in docs/precision.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

MEDIAN_FACTOR = 1.25
"""How many times what rounding explains the median image may be off; correct graphs: 0.4 to 0.7."""

BLIND_FACTOR = 2.5
"""The same where nobody knows which tokens merged elsewhere. That is an engine, whose own rounding
adds to that of the graph that it is compared with."""

IMAGE_FACTOR = 8.0
"""The same of any image whose tokens merge as in the reference; correct graphs: 3.2 at most."""

FLIP_FACTOR = 20.0
"""Largest logit difference, as a share of the largest logit, over what rounding explains, where
nobody knows which tokens merged elsewhere; the model itself: 12 to 16 at most."""

LARGEST = 0.1
"""No rounding excuses more in the median image: the answers are then others."""


def rounding_in(parity: Mapping[str, Any] | None) -> float | None:
    """Return what the rows of a stored parity table say rounding explains; None without one."""
    found = [row["rounding"] for row in _rows(parity) if row.get("rounding") is not None]
    return float(max(found)) if found else None


def _rows(parity: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    if parity is None:
        return
    for table in [parity] if "rows" in parity else parity.values():
        yield from table.get("rows", ()) if isinstance(table, Mapping) else ()


def image_errors(difference: NDArray[Any], logits: NDArray[Any]) -> NDArray[np.float64]:
    """Return (I,) the error of each image over the size of the logits, both root mean squares.

    Args:
        difference: (I, K) of the logits.
        logits: (I, K) of the reference.
    """
    size = float(np.sqrt(np.mean(np.square(logits, dtype=np.float64))))
    errors = np.sqrt(np.mean(np.square(difference, dtype=np.float64), axis=1))
    return np.asarray(errors / size if size else errors)


def beyond_rounding(
    errors: NDArray[np.float64], clean: NDArray[np.bool_] | None, rounding: float
) -> list[str]:
    """Return a sentence for everything that rounding does not explain.

    Args:
        errors: Errors of `image_errors`.
        clean: (I,) images whose tokens merge as in the reference; None where nobody knows.
        rounding: What it explains in the median image.
    """
    said = []
    factor = BLIND_FACTOR if clean is None else MEDIAN_FACTOR
    median, limit = float(np.median(errors)), min(factor * rounding, LARGEST)
    if median > limit:
        said.append(
            f"the median image is off by {median:.2g} of the logits' size, limit {limit:.2g}: "
            f"rounding explains {rounding:.2g}"
        )
    if clean is not None and clean.any():
        worst, limit = float(errors[clean].max()), IMAGE_FACTOR * rounding
        if worst > limit:
            said.append(
                f"an image is off by {worst:.2g} of the logits' size, limit {limit:.2g}: "
                f"rounding explains {rounding:.2g} in the median image"
            )
    return said
