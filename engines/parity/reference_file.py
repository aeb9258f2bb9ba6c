"""The reference outputs of a few images in a file, to check an engine on another machine."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from engines import storage
from engines.errors import TrustError
from engines.imaging.images import ImageSet
from engines.manifest import Head
from engines.parity.comparison import ReferenceOutputs
from engines.parity.gates import Gates
from engines.parity.model_outputs import ModelOutputs

SCHEMA = 1
_ARRAYS = {
    "pixels": (np.uint8, 4),
    "logits": (np.float32, None),
    "labels": (np.int64, 1),
    "margin": (np.float32, 2),
}
_DIMENSIONS: dict[Head, int] = {"logits": 2, "features": 2, "tokens": 3}
"""Of what stands under "logits", by what it is."""
_FIX = "bundle the graph again, where it was made"


def write_reference(path: Path, expected: ReferenceOutputs) -> None:
    """Write reference outputs, atomically; the same ones give the same bytes.

    Args:
        path: `NAME.check.npz`.
        expected: What the graph said.
    """
    gates = expected.gates
    facts = {
        "schema": SCHEMA,
        "graph": expected.name,
        "images": expected.images.description,
        "labels": expected.images.labels_found,
        "head": expected.outputs.head,
        "gates": {
            "relative": gates.relative, "margin": gates.margin, "agreement": gates.agreement,
            "sqnr_db": gates.sqnr_db, "warn_db": gates.warn_db, "rounding": gates.rounding,
        },
    }  # fmt: skip
    arrays: dict[str, Any] = {
        "pixels": expected.images.pixels,
        "logits": expected.outputs.logits.astype(np.float32),
        "facts": np.frombuffer(json.dumps(facts).encode(), np.uint8),
    }
    if expected.images.labels is not None:
        arrays["labels"] = expected.images.labels
    if expected.outputs.margin is not None:
        arrays["margin"] = expected.outputs.margin.astype(np.float32)
    with storage.atomic_path(path) as temporary:
        np.savez_compressed(temporary, **arrays)


def read_reference(path: Path) -> ReferenceOutputs:
    """Read reference outputs.

    Raises:
        TrustError: The file is missing, damaged or of another kind.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            facts = json.loads(archive["facts"].tobytes().decode("utf-8"))
            if facts["schema"] != SCHEMA:
                raise ValueError(f"schema {facts['schema']!r}, this version reads {SCHEMA}")
            arrays = {name: archive[name] for name in _ARRAYS if name in archive.files}
        return _expected(facts, arrays)
    except (
        OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, RecursionError,
        zipfile.BadZipFile, NotImplementedError,
    ) as error:  # fmt: skip
        raise TrustError(
            f"the check file cannot be read: {error}", where=str(path), fix=_FIX
        ) from error


def _expected(facts: dict[str, Any], arrays: dict[str, Any]) -> ReferenceOutputs:
    head: Head = facts.get("head", "logits")
    for name, array in arrays.items():
        dtype, dimensions = _ARRAYS[name]
        wanted = dimensions or _DIMENSIONS[head]
        if array.dtype != dtype or array.ndim != wanted or len(array) != len(arrays["pixels"]):
            raise ValueError(f"{name} has the wrong shape or type")
    if not len(arrays["pixels"]) or not np.isfinite(arrays["logits"]).all():
        raise ValueError("there is nothing to compare with")
    margin = arrays.get("margin")
    if margin is not None and np.isnan(margin).any():
        raise ValueError("a margin is not a number")
    limits = {
        name: None if facts["gates"].get(name) is None else float(facts["gates"][name])
        for name in ("relative", "agreement", "sqnr_db", "warn_db", "rounding")
    }
    found = facts.get("labels")
    images = ImageSet(
        pixels=arrays["pixels"],
        description=str(facts["images"]),
        labels=arrays.get("labels"),
        labels_found=None if found is None else str(found),
    )
    return ReferenceOutputs(
        name=str(facts["graph"]),
        images=images,
        outputs=ModelOutputs(logits=arrays["logits"], margin=margin, head=head),
        gates=Gates(margin=float(facts["gates"]["margin"]), **limits),
    )
