"""Class names as a configuration beside the weights gives them, one for each row of the head."""

from __future__ import annotations

import re
from typing import Any

from engines.errors import CheckpointError
from fpet_export.model.facts import Fact


def labels_of(
    stated: object, classes: int, *, key: str, where: str
) -> tuple[Fact[tuple[str, ...]] | None, dict[str, Fact[Any]]]:
    """Return the class names that a list or a table from index to name states.

    Names that tell no classes apart (transformers' LABEL_0, or one name twice) are none; that is
    said as a fact.

    Args:
        stated: What the file has.
        classes: Rows of the head.
        key: The key it stands under, and the file's name.
        where: The file.

    Raises:
        CheckpointError: They are no names, or not one for each class.
    """
    names = _in_order(stated)
    if names is None:
        raise CheckpointError(
            f"{key}: wanted a list of class names, or a table from 0, 1, … to names",
            where=where,
            fix="correct or remove it",
        )
    if len(names) != classes:
        raise CheckpointError(
            f"{key} names {len(names)} classes, the head has {classes}",
            where=where,
            fix="correct it, or find the weights that belong to it",
        )
    if names == [f"LABEL_{index}" for index in range(classes)]:
        return None, {"labels": Fact("none", f"{key} holds placeholders alone")}
    folded = [" ".join(name.split()) for name in names]
    twice = sorted({name for name in folded if folded.count(name) > 1})
    if twice or "" in folded:
        what = f"calls two classes {twice[0]!r}" if twice else "has an empty name"
        return None, {"labels": Fact("none", f"{key} {what}")}
    return Fact(tuple(names), key), {}


def _in_order(stated: object) -> list[str] | None:
    """Return the names by index; None where they are something else."""
    if isinstance(stated, dict):
        if not all(isinstance(key, str) and re.fullmatch(r"\d{1,9}", key) for key in stated):
            return None
        by_index = {int(key): value for key, value in stated.items()}
        if sorted(by_index) != list(range(len(stated))):
            return None
        stated = [by_index[index] for index in range(len(by_index))]
    if not isinstance(stated, list) or not all(isinstance(name, str) for name in stated):
        return None
    return stated
