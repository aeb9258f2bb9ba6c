"""What verbs take for single tasks: `--data pets=val/` for one, `--data val/` for all."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from engines.errors import UsageError
from fpet_export.verbs import _arguments

if TYPE_CHECKING:
    from engines.images import ImageSet
    from engines.manifest import Preprocessing

_NAMED = re.compile(r"([A-Za-z0-9][\w.-]*)=(.+)")


def named(text: str) -> tuple[str | None, str]:
    """Take `NAME=REST` apart; a path that exists is no name."""
    found = _NAMED.fullmatch(text)
    if found is None or Path(text).exists():
        return None, text
    return found[1], found[2]


def by_task(texts: Sequence[str], tasks: Sequence[str], option: str) -> dict[str, Path]:
    """Return the path of every task: its own, else that of all.

    Raises:
        UsageError: A path is given for a task that is not there.
    """
    found: dict[str, Path] = {}
    for text in texts:
        name, path = named(text)
        if name is not None and name not in tasks:
            raise UsageError(
                f"{name!r} is not one of the tasks {', '.join(tasks)}",
                where=option,
                fix=f"{option} NAME=PATH for one task, or {option} PATH for all",
            )
        for task in tasks if name is None else [name]:
            if name is not None or task not in found:
                found[task] = Path(path)
    return found


def images_by_task(
    options: argparse.Namespace, preprocessing: Mapping[str, Preprocessing], *, default: int
) -> dict[str, ImageSet]:
    """Return the images of every task, by `--data` and `--limit`.

    Args:
        options: Of `_arguments.add_data(parser, by_task=True)`.
        preprocessing: What each task takes.
        default: How many synthetic images a task gets for which none are given.
    """
    places = by_task(options.data, list(preprocessing), "--data")
    found = {}
    for name, own in preprocessing.items():
        single = argparse.Namespace(data=places.get(name), limit=options.limit)
        found[name] = _arguments.images_for(single, own, default=default)
    return found
