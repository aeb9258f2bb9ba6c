"""Prompts, gates, convolutions and norms inside: exact rewrites are right, or leave them out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fpet_export
from calibration import casts, equalise
from calibration.collect import collect
from engines.onnx_graph.files import read_graph
from fpet_export.model.adapt import adapt
from fpet_export.stages import Adapted
from tests.calibration.exports import SIDE, feed_of, images_of, run, saved, source_of
from tests.fpet_export.model.backbones import test_eva_files
from tests.fpet_export.model.checkpoints import test_convpass, test_dyt, test_ts_peft, test_vpt

KINDS: dict[str, tuple[Callable[[Path], dict[str, Any]], str, bool]] = {
    "prompts": (lambda folder: test_vpt.write(folder, "deep"), "none", False),
    "gated updates": (lambda f: test_ts_peft.write(f, test_ts_peft.tuned()), "none", False),
    "gates of the MLP": (test_dyt.write, "tome:r=2", True),
    "convolutions": (test_convpass.write, "none", True),
    "norms inside": (lambda folder: of_eva(folder, "eva02_base_patch16_clip_224"), "fpet@1", False),
    "rotary": (lambda folder: of_eva(folder, "vit_small_patch16_dinov3"), "tome:r=2", True),
}
"""How a run is written, how it merges, and whether its values may be rewritten."""


def of_eva(folder: Path, name: str) -> dict[str, Any]:
    return {"run": test_eva_files.folder_of(name, folder / "model"), "image": (SIDE, SIDE)}


@pytest.mark.parametrize("kind", KINDS)
def test_exact_rewrites_keep_the_answers(kind: str, tmp_path: Path) -> None:
    write, merge, rewrites_values = KINDS[kind]
    run_of = fpet_export.load(**write(tmp_path))
    if merge != "none":
        run_of = merged(run_of, merge)
    path = run_of.fold().freeze().to_onnx(tmp_path / "model.onnx")
    table = collect(path, source_of(tmp_path / "images.npz", images_of(16), path))
    graph = read_graph(path)

    rewrites = equalise.fit(graph, table)
    equalise.apply(graph, rewrites)

    assert bool(rewrites.values) == rewrites_values
    assert rewrites.factors or rewrites.inputs
    feed = feed_of(path, images_of(1, seed=1))
    (before,), (after,) = (
        run(one, feed, ["logits"]) for one in (path, saved(graph, tmp_path / "after.onnx"))
    )
    assert np.abs(after - before).max() < 1e-4 * np.abs(before).max()


def test_a_gate_behind_a_merge_keeps_the_merge_out_of_its_island(tmp_path: Path) -> None:
    """The tokens that a gate reads are those that a merge made: those stay in half precision."""
    run_of = merged(fpet_export.load(**test_dyt.write(tmp_path)), "tome:r=2")
    path = run_of.fold().freeze(target="rtx").to_onnx(tmp_path / "model.onnx")
    graph = read_graph(path)

    island = casts.float32_island(graph)

    inside = [node for node in graph.nodes if id(node) in island]
    assert {"Greater", "MatMul"} <= {n.op for n in inside if "/decides" in n.name}
    assert not any("/fc1/" in node.name or "/qkv/" in node.name for node in inside)


def merged(run_of: Adapted, merge: str) -> Adapted:
    changed = run_of.checkpoint.merged(merge)
    return dataclasses.replace(run_of, checkpoint=changed, model=adapt(run_of.backbone, changed))


@pytest.mark.parametrize("merge", ["fpet@1", "tome:r=2"])
def test_a_match_reads_positions_in_float32(merge: str, tmp_path: Path) -> None:
    """What turns queries and keys outside is of half precision, and what a merge reads is not."""
    run_of = merged(fpet_export.load(**of_eva(tmp_path, "vit_small_patch16_dinov3")), merge)
    path = run_of.fold().freeze(target="rtx").to_onnx(tmp_path / "model.onnx")
    graph = read_graph(path)

    casts.cast_graph(graph, "fp16", io="fp32")

    inside = [node for node in graph.nodes if "/merge/key/" in node.name]
    turning = [node for node in inside if node.op == "Mul"]
    assert turning and {t.dtype for n in turning for t in n.inputs} == {np.dtype(np.float32)}
    outside = [node for node in graph.nodes if node.name.endswith("/attn/Mul")]
    assert {t.dtype for n in outside for t in n.inputs} == {np.dtype(np.float16)}
