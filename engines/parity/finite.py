"""Answers that are no numbers are errors, wherever they would be used or shown.

Logits with a NaN or an infinity have no largest class and no probabilities. Figures may be infinite
(the signal to noise ratio of equal logits is); JSON knows no such number, so null stands there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engines.errors import ParityError
from engines.parity.model_outputs import ModelOutputs


def require_finite(outputs: ModelOutputs, images: Sequence[str], *, of: Path | str) -> None:
    """Refuse logits, features or tokens that are not finite.

    Args:
        outputs: What an artefact gave.
        images: Their names; empty where they have none.
        of: The artefact that gave them.

    Raises:
        ParityError: There are such; the first such image is named.
    """
    logits, head = outputs.flat, outputs.head
    bad = np.flatnonzero(~np.isfinite(logits).all(axis=1))
    if not bad.size:
        return
    first = int(bad[0])
    broken = int((~np.isfinite(logits[first])).sum())
    name = images[first] if images else f"number {first}"
    raise ParityError(
        f"the {head} are not finite for {bad.size} of {len(logits)} images; the first is {name}, "
        f"with {broken} of {logits.shape[1]} {'logits' if head == 'logits' else 'numbers'} "
        "infinite or not a number",
        where=str(of),
        fix="export the run again and read its parity table: a weight or an activation leaves the "
        "range of the graph's type",
    )


def json_ready(document: Any) -> Any:
    """Return a document in which an infinite number is None, as JSON can say it.

    Raises:
        ParityError: A number in it is not a number (NaN); the message says where.
    """
    return _ready(document, "")


def _ready(value: Any, place: str) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        if math.isnan(value):
            raise ParityError(
                f"{place or 'the result'} is not a number",
                where="the JSON document",
                fix="report this with the command: a result of this toolkit must be a number",
            )
        return None
    if isinstance(value, Mapping):
        return {key: _ready(item, f"{place}.{key}".lstrip(".")) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_ready(item, f"{place}[{number}]") for number, item in enumerate(value)]
    return value
