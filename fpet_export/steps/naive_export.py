"""The peers of an export: the same backbone without merging, and the naive export of any model.

"Plain" is what someone gets without this toolkit: the model's ordinary PyTorch forward pass
through `torch.onnx.export`, with no rewrite of ours.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch

from calibration.graph_typing import recipe_for
from calibration.recipe import typed_graph
from engines import precisions, storage
from engines.manifest import NO_TARGET, Manifest, TensorSpec, read_manifest, write_manifest
from engines.onnx_graph.files import write_graph
from engines.targets import Target
from fpet_export.graph import large_weights
from fpet_export.graph.constant_shapes import fix_shapes
from fpet_export.graph.to_onnx import INPUT, quiet_exporter
from fpet_export.model.vit import Vit
from fpet_export.stages import companions_of, tool_versions

OPSET = 20


def naive_export(
    model: Vit,
    path: Path,
    *,
    batch: int | tuple[int, int],
    quality: str = "unknown",
    opset: int = OPSET,
) -> Path:
    """Write the graph that plain `torch.onnx.export` makes of `model`, with a short manifest.

    Args:
        model: Any model; a merging one comes out silently wrong, which is the point of showing it.
        path: The `.onnx` file; replaced if it exists.
        batch: Images of one inference, or the (smallest, largest) of a dynamic batch.
        quality: "trained" or "random", for the manifest.
        opset: ONNX opset, 17 or newer.
    """
    example = max(2, batch[0]) if isinstance(batch, tuple) else batch
    images = torch.zeros(example, 3, *model.spec.image)
    rows: int | str = "batch"
    shapes: Any = None
    if isinstance(batch, tuple):
        shapes = ({0: torch.export.Dim("batch", min=batch[0], max=batch[1])},)
    else:
        rows = batch
    with quiet_exporter():
        program = torch.onnx.export(
            model,
            (images,),
            dynamo=True,
            opset_version=opset,
            input_names=[INPUT],
            output_names=[model.spec.head],
            dynamic_shapes=shapes,
            verbose=False,
        )
    assert program is not None
    if isinstance(batch, tuple):
        fix_shapes(program.model)
    with storage.atomic_path(path) as temporary:
        weights = sum(p.numel() * p.element_size() for p in model.parameters())
        program.save(str(temporary), external_data=weights > large_weights.LARGEST_BYTES)
        write_manifest(
            temporary,
            Manifest(
                kind="graph",
                file=path.name,
                inputs=(TensorSpec(name=INPUT, shape=(rows, *images.shape[1:]), dtype="float32"),),
                outputs=(
                    TensorSpec(
                        name=model.spec.head, shape=(rows, *model.spec.output), dtype="float32"
                    ),
                ),
                batch_range=batch if isinstance(batch, tuple) else None,
                precision=precisions.FP32,
                opset=opset,
                target=NO_TARGET,
                companions=companions_of(temporary),
                weights="random" if quality == "random" else "trained",
                tools=tool_versions(),
            ),
        )
    return path


def in_half_precision(graph: Path, precision: str, target: Target) -> Path:
    """Write `plain.fp16.onnx` beside `plain.onnx`: a naive graph in the type its rival computes in.

    Everything is cast: a plain model has no match that needs float32.

    Args:
        graph: From `naive_export`.
        precision: A half precision.
        target: Where both will run.
    """
    recipe = recipe_for(target, precision)
    out = graph.with_name(f"{graph.stem}.{precision}.onnx")
    with storage.atomic_path(out) as temporary:
        write_graph(typed_graph(graph, recipe), temporary)
        manifest = dataclasses.replace(
            read_manifest(graph),
            file=out.name,
            precision=precision,
            companions=companions_of(temporary),
        )
        write_manifest(temporary, manifest)
    return out
