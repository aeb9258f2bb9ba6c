"""The plain model that a measurement is against: the same architecture and type, without merging.

It is written where torch is. A board has none, so a bundle may bring it along.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any, Literal

from benchmarks.peers import PeerSource
from engines import precisions
from engines.contract import BuildOptions
from engines.engine import build, default_path, load_target
from engines.errors import UsageError
from engines.manifest import (
    Manifest,
    ModelFacts,
    manifest_path,
    read_manifest,
    write_manifest,
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
    from fpet_export.model import cost
    from fpet_export.model.backbones import random_weights
    from fpet_export.model.vit import empty_vit
    from fpet_export.steps import naive_export as plain

    spec = _spec(manifest)
    weights = random_weights.draw(spec, 0)

    def build() -> Any:
        model = empty_vit(spec)
        model.load_state_dict(weights, assign=True)
        return model.eval().requires_grad_(False)

    graph = plain.naive_export(
        build(),
        folder / "plain.onnx",
        batch=_batch(manifest),
        quality="random",
        opset=min(plain.OPSET, target.opset_ceiling),
    )
    macs = sum(cost.macs(spec, cost.tokens_after_blocks(spec, None)))
    source = PeerSource(onnx=graph, module=build, image=(3, *spec.image), macs=macs)
    half = _half(manifest, target)
    baseline = graph if half is None else plain.in_half_precision(graph, half, target)
    # Dated as its rival: the same command makes the same bundle, and finds a broken upload again.
    dated = dataclasses.replace(read_manifest(baseline, verify=False), created=manifest.created)
    write_manifest(baseline, dated)
    return source, baseline


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


def _half(rival: Manifest, target: Target) -> str | None:
    """Return the half precision that a rival computes in; None for float32."""
    if precisions.is_half(rival.precision):
        return rival.precision
    if rival.is_quantized:
        return precisions.half_in(target.precisions)
    return None


def _spec(manifest: Manifest) -> Any:
    """Return a spec of the same cost; prefix tokens beyond the class token become registers."""
    from fpet_export.model.vit import VitSpec

    facts: ModelFacts | None = manifest.model
    assert facts is not None
    prefix: list[Literal["cls", "dist", "reg"]] = ["cls"] if facts.prefix_tokens else []
    prefix += ["reg"] * (facts.prefix_tokens - 1)
    return VitSpec(
        image=(facts.grid[0] * facts.patch[0], facts.grid[1] * facts.patch[1]),
        patch=facts.patch,
        width=facts.width,
        depth=facts.depth,
        heads=facts.heads,
        hidden=facts.hidden,
        classes=facts.classes,
        prefix=tuple(prefix),
        pool="class" if prefix else "mean",
    )


def _batch(manifest: Manifest) -> int | tuple[int, int]:
    """Return the rival's batch: what a fixed one gains in speed is none of the merge's."""
    first = manifest.inputs[0].shape[0]
    if isinstance(first, int):
        return first
    low, high = manifest.batch_range or (1, 1)
    return (low, high) if low < high else low


def _is_dynamic(plain: Path) -> bool:
    """Say whether a plain graph has a dynamic batch, as far as its manifest tells."""
    return manifest_path(plain).exists() and bool(read_manifest(plain, verify=False).batch_range)
