"""An INT8 graph as CPUs take it: a tiny merged ViT, exported, calibrated and quantized for real.

Larger than `tiny`: with 64 patches of 64 pixels, one pixel matters as little as in a real ViT.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from calibration import collect, policy, recipe
from calibration.table import CalibrationTable
from engines.imaging.source import open_source
from engines.imaging.synthetic import synthetic_set
from engines.manifest import read_manifest, write_manifest
from engines.onnx_graph.files import read_graph, write_graph
from engines.onnx_header import read_onnx_header
from fpet_export import stages
from fpet_export.model.facts import Fact
from tests.fpet_export.tiny import MEAN, STD, adapted, backbone_of, checkpoint_of, spec_of

DEPTH, SIDE = 4, 64

Change = Callable[[NDArray[np.generic]], NDArray[np.generic]]


def write_float_graph(path: Path, *, seed: int = 0, target: str = "cpu") -> Path:
    """Export a ViT of width 64 and depth 4 that merges after its second block."""
    spec = spec_of(image=(SIDE, SIDE), patch=(8, 8), depth=DEPTH)
    checkpoint = checkpoint_of(spec, seed=seed + 1)
    backbone = backbone_of(spec, seed)
    preprocessing = dataclasses.replace(backbone.preprocessing, mean=MEAN, std=STD, in_graph=False)
    run = stages.Adapted(
        model=adapted(spec, checkpoint, seed),
        checkpoint=checkpoint,
        backbone=backbone,
        preprocessing=preprocessing,
        normalisation=Fact("none", "the test"),
    )
    return run.fold().freeze(target=target).to_onnx(path)


def quantize(graph: Path, path: Path, **changes: Any) -> Path:
    """Calibrate on synthetic images and write the quantized graph with its manifest.

    Args:
        graph: From `write_float_graph`.
        path: What to write.
        changes: To the recipe, which is INT8 in the "gemm" form.
    """
    manifest = read_manifest(graph)
    settings: dict[str, Any] = {"precision": "int8", "form": "gemm"}
    wanted = recipe.Recipe(**(settings | changes))
    made = recipe.typed_graph(
        graph,
        wanted,
        policy=policy.choose(read_graph(graph), "vit-linear"),
        table=_table(graph) if wanted.quantizes else None,
    )
    write_graph(made, path)
    header = read_onnx_header(path)
    write_manifest(
        path,
        dataclasses.replace(
            manifest,
            precision=wanted.precision,
            inputs=header.inputs,
            outputs=header.outputs,
            operators=header.operators,
        ),
    )
    return path


@functools.cache
def _table(graph: Path) -> CalibrationTable:
    preprocessing = read_manifest(graph).preprocessing
    assert preprocessing is not None
    shard = graph.with_suffix(".npz")
    np.savez(shard, images=synthetic_set((SIDE, SIDE), 16, seed=1).pixels)
    return collect.calibrate(graph, open_source(shard, preprocessing))


def write_wrong(graph: Path, path: Path, *, operator: str, side: int, change: Change) -> Path:
    """Copy an INT8 graph with one parameter of every such node changed.

    Args:
        graph: From `quantize`.
        path: Of the copy; it gets the same manifest.
        operator: "QuantizeLinear" for the activations, "DequantizeLinear" for the weights.
        side: Place among the node's inputs: 1 the scale, 2 the zero point.
        change: Old values to new ones.
    """
    model = onnx.load(str(graph))
    values = {tensor.name: tensor for tensor in model.graph.initializer}
    for index, node in enumerate(model.graph.node):
        if node.op_type != operator or (operator[0] == "D" and node.input[0] not in values):
            continue
        changed = change(numpy_helper.to_array(values[node.input[side]]))
        node.input[side] = f"changed{index}"
        model.graph.initializer.append(numpy_helper.from_array(changed, node.input[side]))
    onnx.save(model, str(path))
    write_manifest(path, read_manifest(graph))
    return path
