"""`bench --batches 1,8,64`: artefacts with a dynamic batch, measured at each size."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.merge_verdict import merge_verdicts
from engines.commands import command, graph_of
from engines.errors import InputError, UsageError
from engines.form import export_command
from engines.manifest import Manifest, TensorSpec, manifest_path, read_manifest
from engines.onnx_header import read_onnx_header
from engines.targets._lookup import load_target
from fpet_export.reporter import Reporter
from fpet_export.steps import plain_vit

if TYPE_CHECKING:
    from benchmarks.measurement import Measurement

_OPTION = "--batches"
_SOME = (1, 8, 64)
"""Sizes that are proposed."""


def report(measurements: Sequence[Measurement], reporter: Reporter) -> None:
    """Say whether merging pays, where stdout holds the names of files."""
    for one in merge_verdicts(measurements):
        reporter.step("merging", one.sentence(), passed=True if one.pays else None)


def hint(measurement: Measurement, artefacts: Sequence[Path]) -> str:
    """Return how to find the batch from which merging pays; "" where it pays, or is not judged."""
    verdicts = merge_verdicts([measurement])
    if not any(one.pays is False for one in verdicts):
        return ""
    path = artefacts[0]
    manifest = read_manifest(path, verify=False) if manifest_path(path).exists() else None
    if manifest is not None and manifest.batch_range is not None:
        low, high = manifest.batch_range
        some = sorted({max(low, min(size, high)) for size in (*_SOME, high)})
        return command("bench", *artefacts, "--against", plain_vit.PLAIN, _OPTION,
                       ",".join(map(str, some)))  # fmt: skip
    return how_to_export(path, manifest, _SOME[0], _SOME[-1])


def require_dynamic(path: Path, batches: Sequence[int]) -> None:
    """Refuse an artefact that does not take each of the batch sizes.

    Raises:
        InputError: There is no such file.
        UsageError: Its batch is fixed, or its range is smaller; the fix says what to export.
    """
    if not path.is_file():
        raise InputError("there is no such file", where=str(path), fix="check the path")
    manifest = read_manifest(path, verify=False) if manifest_path(path).exists() else None
    specs = _inputs_of(path, manifest)
    first = specs[0].shape[0] if specs and specs[0].shape else None
    known = manifest.batch_range if manifest is not None else None
    if isinstance(first, int):
        what = f"its batch is fixed to {first}"
    elif known is not None and not known[0] <= batches[0] <= batches[-1] <= known[1]:
        what = f"it takes batches from {known[0]} to {known[1]}"
    else:
        return
    listed = ",".join(map(str, batches))
    raise UsageError(
        f"{path.name} cannot be measured at {_OPTION} {listed}: {what}",
        where=str(path),
        fix=how_to_export(path, manifest, batches[0], batches[-1]),
    )


def how_to_export(path: Path, manifest: Manifest | None, low: int, high: int) -> str:
    """Return how to get an artefact that takes batches from `low` to `high`."""
    if low == high:
        low, high = (1, high) if high > 1 else (1, 2)
    wanted = f"--batch dyn:{low}-{high}"
    if manifest is None or manifest.form is None:
        return f"export its run with {wanted}"
    then = "" if manifest.kind == "graph" and manifest.is_float32 else (
        ", then quantize and build what comes out as before"
    )  # fmt: skip
    if manifest.kind == "engine" and manifest.batch_range is not None:
        graph = graph_of(path, manifest)
        if graph is not None:
            return f"build its graph again without --batch ({graph}), or export with {wanted}"
    line = export_command(manifest, load_target(manifest.target))
    return f"export it with a dynamic batch: {with_batch(line, wanted)}{then}"


def with_batch(line: str, wanted: str) -> str:
    """Return an export command with another batch.

    Args:
        line: The command.
        wanted: The option with its value.
    """
    argv, kept, skip = shlex.split(line), [], False
    for word in argv:
        if skip:
            skip = False
        elif word == "--batch":
            skip = True
        elif not word.startswith("--batch="):
            kept.append(word)
    return f"{shlex.join(kept)} {wanted}"


def _inputs_of(path: Path, manifest: Manifest | None) -> Sequence[TensorSpec]:
    if manifest is not None:
        return manifest.inputs
    return read_onnx_header(path).inputs if path.suffix == ".onnx" else ()
