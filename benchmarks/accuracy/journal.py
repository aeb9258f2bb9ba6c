"""Answers on disk while they are made, so that an interrupted run goes on where it was.

The first line says what the answers belong to, each further one holds some images' best classes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accuracy.scores import KEPT, IntArray

SCHEMA = 1


class Journal:
    """Answers of one artefact after another; without a file nothing is kept."""

    def __init__(self, path: Path | None, belongs_to: Mapping[str, Any]) -> None:
        """Read what an earlier run has left of the same.

        Args:
            path: The file; None keeps nothing.
            belongs_to: What must be the same for its answers to count, as JSON.
        """
        self._path = path
        self._answers: dict[str, list[list[int]]] = {}
        head = {"schema": SCHEMA, **belongs_to}
        if path is None:
            return
        lines = _lines(path)
        if lines[:1] == [head]:
            for line in lines[1:]:
                self._answers.setdefault(line["sha256"], []).extend(line["best"])
            # What follows a line that was cut off would be lost, so the file is written anew.
            kept = [head, *({"sha256": key, "best": v} for key, v in self._answers.items())]
        else:
            kept = [head]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(line) + "\n" for line in kept), "utf-8")

    def known(self, sha256: str) -> IntArray:
        """Return (I, `KEPT`) the answers of an artefact so far."""
        return np.array(self._answers.get(sha256, []), np.int64).reshape(-1, KEPT)

    def add(self, sha256: str, best: IntArray) -> None:
        """Keep more answers of an artefact."""
        self._answers.setdefault(sha256, []).extend(best.tolist())
        if self._path is None:
            return
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"sha256": sha256, "best": best.tolist()}) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def remove(self) -> None:
        """Remove the file: what it was kept for is done."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def _lines(path: Path) -> list[dict[str, Any]]:
    """Return the whole lines of a journal; the last one may have been cut off."""
    found: list[dict[str, Any]] = []
    if not path.exists():
        return found
    for text in path.read_text("utf-8", "replace").splitlines():
        try:
            found.append(json.loads(text))
        except ValueError:
            break
    return found
