"""The plain model that a measurement is against: the same architecture and type, without merging.

It is written where torch is. A board has none, so a bundle may bring it along.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from benchmarks.peers import PeerSource
from engines.contract import BuildOptions
from engines.engine import build, default_path, load_target
from engines.errors import UsageError
from engines.manifest import (
    Manifest,
    manifest_path,
    read_manifest,
)
from engines.targets import Target
from fpet_export.reporter import Reporter
from fpet_export.steps import built_engine

PLAIN = "plain"
_TUNED = re.compile(r"tuned for \((\d+),")


def require_described(path: Path) -> Manifest:
    """Return the manifest of an artefact whose plain model can be written.

    Raises:
        UsageError: Nothing says its architecture.
    """
    if not manifest_path(path).exists() or read_manifest(path).model is None:
        raise UsageError(
            "this artefact does not record its architecture, so its plain model cannot be built",
            where=str(path),
            fix="measure against a graph of your own: --against PLAIN.onnx",
        )
    return read_manifest(path)


def write(manifest: Manifest, target: Target, folder: Path) -> tuple[PeerSource, Path]:
    """Write the plain model of an artefact, with random weights: a latency does not depend on them.

    The graph to build a baseline from computes in the type that its rival has beside its integers,
    because what half precision gains is none of the merge's.

    Args:
        manifest: Manifest of the rival.
        target: Where both run.
        folder: Where `plain.onnx` goes, and `plain.fp16.onnx` for a rival in that type.

    Returns:
        The float32 model in the forms that peers read, and the graph for the baseline.
    """
    from fpet_export.steps import plain_graph

    return plain_graph.write(manifest, target, folder)


def built_like(rival: Path, plain: Path, folder: Path, reporter: Reporter) -> Path:
    """Build the plain graph into a folder as its rival was built; beside a graph it stays one."""
    manifest = read_manifest(rival, verify=False) if manifest_path(rival).exists() else None
    if manifest is None or manifest.kind == "graph":
        return plain
    target = load_target(manifest.target)
    with built_engine.build_progress(reporter) as progress:
        return build(
            plain,
            target=target,
            out=folder / default_path(plain, target).name,
            options=dataclasses.replace(_as_built(manifest, target, plain), progress=progress),
        )


def _as_built(manifest: Manifest, target: Target, plain: Path) -> BuildOptions:
    """Return the choices that an engine was built with, for the plain graph beside it."""
    assert manifest.runtime is not None
    settings = manifest.runtime.settings
    capabilities = None  # TensorRT builds for the GPU it runs on
    if target.module == "tensorrt_rtx":
        capabilities = manifest.runtime.compute_capabilities
    batches = None
    if target.suffix == ".plan" and manifest.batch_range is not None and _is_dynamic(plain):
        low, high = manifest.batch_range
        tuned = _TUNED.search(settings.get("profiles", ""))
        batches = (low, int(tuned[1]) if tuned else high, high)
    level, workspace = settings.get("optimization_level"), settings.get("workspace_bytes")
    return BuildOptions(
        compute_capabilities=capabilities,
        optimization_level=None if level is None else int(level),
        workspace_bytes=None if workspace is None else int(workspace),
        batches=batches,
    )


def describe(plain: Path) -> str:
    """Return what the baseline is, as far as its manifest says."""
    if not manifest_path(plain).exists():
        return f"{plain.name}, a graph from elsewhere"
    manifest = read_manifest(plain, verify=False)
    return f"{plain.name}: without merging, {manifest.precision}, {manifest.weights} weights"


def _is_dynamic(plain: Path) -> bool:
    """Say whether a plain graph has a dynamic batch, as far as its manifest tells."""
    return manifest_path(plain).exists() and bool(read_manifest(plain, verify=False).batch_range)
