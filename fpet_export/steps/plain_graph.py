"""The graph of a plain ViT, as costly as its rival and without merging; see `plain_vit`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from benchmarks.peers import PeerSource
from engines import precisions
from engines.manifest import Manifest, read_manifest, write_manifest
from engines.targets import Target
from fpet_export.model import cost
from fpet_export.model.backbones import random_weights
from fpet_export.model.merge_plan import NOWHERE, merge_plan
from fpet_export.model.rotary import Rotary
from fpet_export.model.vit import Vit, empty_vit
from fpet_export.model.vit_spec import VitSpec
from fpet_export.steps.naive_export import OPSET, in_half_precision, naive_export


def write(manifest: Manifest, target: Target, folder: Path) -> tuple[PeerSource, Path]:
    """Write the plain model of an artefact; see `fpet_export.steps.plain_vit.write`."""
    spec = _spec(manifest)
    weights = random_weights.draw(spec, 0)

    def build() -> Vit:
        model = empty_vit(spec)
        model.load_state_dict(weights, assign=True)
        return model.eval().requires_grad_(False)

    graph = naive_export(
        build(),
        folder / "plain.onnx",
        batch=_batch(manifest),
        quality="random",
        opset=min(OPSET, target.opset_ceiling),
    )
    macs = sum(cost.macs(spec, merge_plan(spec, NOWHERE)))
    source = PeerSource(onnx=graph, module=build, image=(3, *spec.image), macs=macs)
    half = _half(manifest, target)
    baseline = graph if half is None else in_half_precision(graph, half, target)
    # Dated as its rival: the same command makes the same bundle, and finds a broken upload again.
    dated = dataclasses.replace(read_manifest(baseline, verify=False), created=manifest.created)
    write_manifest(baseline, dated)
    return source, baseline


def _half(rival: Manifest, target: Target) -> str | None:
    """Return the half precision that a rival computes in; None for float32."""
    if precisions.is_half(rival.precision):
        return rival.precision
    if rival.is_quantized:
        return precisions.half_in(target.precisions)
    return None


def _spec(manifest: Manifest) -> VitSpec:
    """Return a spec of the same cost; prefix tokens beyond the class token become registers."""
    facts = manifest.model
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
        pool="attention" if facts.attention_pool else "class" if prefix else "mean",
        head=facts.head,
        gated=facts.gated,
        qk_norm=facts.qk_norm,
        attention_norm=facts.attention_norm,
        mlp_norm=facts.mlp_norm,
        rotary=Rotary(pairs="halves") if facts.rotary else None,
    )


def _batch(manifest: Manifest) -> int | tuple[int, int]:
    """Return the rival's batch: what a fixed one gains in speed is none of the merge's."""
    first = manifest.inputs[0].shape[0]
    if isinstance(first, int):
        return first
    low, high = manifest.batch_range or (1, 1)
    return (low, high) if low < high else low
