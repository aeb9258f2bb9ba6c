"""A measurement as JSON: with what follows from it, written and read back."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

from benchmarks import merge_verdict
from benchmarks.measurement import SCHEMA, Measurement
from engines import storage
from engines.errors import InputError
from engines.manifest import from_json

_FIX = "measure again with `fpet-export bench`"
_DERIVED = ("valid", "merging")
"""What a document says beside the measurement, because it follows from it."""
_NUMBERS = re.compile(r"\[\n(?:[-\d,\s]|null)+\]")


def to_document(measurement: Measurement) -> dict[str, Any]:
    """Return the measurement as what `json.dumps` takes, with what follows from it.

    That is whether it is valid, and what it says about merging.
    """
    merging = merge_verdict.to_json(merge_verdict.merge_verdicts([measurement]))
    return {"valid": measurement.valid, "merging": merging, **dataclasses.asdict(measurement)}


def write_measurement(path: Path, measurement: Measurement, *, force: bool = False) -> None:
    """Write the measurement atomically.

    Raises:
        UsageError: The file exists and `force` is not given.
        InputError: The folder cannot be written.
    """
    storage.refuse_overwrite(path, force=force)
    storage.write_text(path, to_text(to_document(measurement)))


def to_text(document: dict[str, Any]) -> str:
    """Return a document as JSON with each list of whole numbers on one line, unknown ones too."""
    text = json.dumps(document, indent=1, allow_nan=False)
    return _NUMBERS.sub(lambda found: "".join(found.group().split()), text) + "\n"


def read_measurement(path: Path) -> Measurement:
    """Read a measurement.

    Raises:
        InputError: There is no such file, or it is not a measurement of this schema.
    """
    return _measurement(read_document(path), path)


def read_measurements(path: Path) -> list[Measurement]:
    """Read the measurements of a file: one, or those at several batches or of several boards.

    Raises:
        InputError: There is no such file, or what is in it is none, or none of this schema.
    """
    document = read_document(path)
    several = None
    if isinstance(document, dict):
        boards = document.get("boards")
        several = (
            list(boards.values()) if isinstance(boards, dict) else document.get("measurements")
        )
    if not isinstance(several, list):
        return [_measurement(document, path)]
    return [_measurement(one, path) for one in several]


def read_document(path: Path) -> Any:
    """Read JSON.

    Raises:
        InputError: There is no such file, or it is damaged.
    """
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"the measurement cannot be read: {error}", where=str(path), fix=_FIX
        ) from error


def _measurement(document: Any, path: Path) -> Measurement:
    if isinstance(document, dict) and "kind" in document:
        raise InputError(
            f"it holds results of kind {document['kind']!r}, wanted a measurement of latencies",
            where=str(path),
            fix="name a file that `fpet-export bench` or `deploy` wrote",
        )
    schema = document.get("schema") if isinstance(document, dict) else type(document).__name__
    if schema != SCHEMA:
        raise InputError(
            f"the measurement has schema {schema!r}, this version reads {SCHEMA}",
            where=str(path),
            fix=_FIX,
        )
    known = {name: value for name, value in document.items() if name not in _DERIVED}
    try:
        return from_json(Measurement, known)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"the measurement is damaged: {error}", where=str(path), fix=_FIX
        ) from error
