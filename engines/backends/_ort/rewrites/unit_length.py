"""The unit length of the keys that tokens are matched by as `SimplifiedLayerNormalization`.

That operator computes x / sqrt(mean(x^2)) times a scale, so with 1 / sqrt(width) as its scale it
gives x / |x|.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from engines.backends._ort.rewrites.graph import EditedGraph, attribute

_TINY = 1e-30
_SHORT = 1.001e-12  # below this squared length, what a key points to is rounding
_FLOAT = 1  # onnx.TensorProto.FLOAT


def replace_unit_length(graph: EditedGraph, division: Any) -> bool:
    """Replace x / sqrt(max(sum(x * x), tiny)) over the last axis."""
    vector, length = division.input
    root = graph.made_by(length, "Sqrt")
    limited = root and graph.made_by(root.input[0], "Clip")
    total = limited and graph.made_by(limited.input[0], "ReduceSum")
    square = total and graph.made_by(total.input[0], "Mul")
    shape = graph.shapes.get(vector)
    if not limited or not _is_tiny(graph, limited) or graph.types.get(vector) != _FLOAT:
        return False
    if not total or not square or list(square.input) != [vector, vector] or not shape:
        return False
    if graph.numbers(total.input[1]) not in ([-1], [len(shape) - 1]):
        return False
    width = shape[-1]
    if not isinstance(width, int) or attribute(total, "keepdims") != 1:
        return False
    name = division.name.rpartition("/")[0]
    scale = np.full(width, width**-0.5, np.float32)
    graph.add(
        "SimplifiedLayerNormalization",
        [vector, graph.constant(f"{name}.unit_length".replace("/", "."), scale)],
        [division.output[0]],
        name=f"{name}/UnitLength",
        axis=-1,
        epsilon=_TINY,
        stash_type=1,
    )
    return True


def _is_tiny(graph: EditedGraph, clip: Any) -> bool:
    """Say whether a Clip only keeps its input off zero."""
    smallest = graph.values((*clip.input, "")[1])
    return smallest is not None and 0 < smallest.max() <= _SHORT and not any(clip.input[2:])
