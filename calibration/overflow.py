"""Look for values that half precision cannot hold, on real activations.

Every tensor that would become float16 is reduced to its largest magnitude inside the graph, so
that a scan takes the memory of one inference.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_graphsurgeon as gs

from calibration.casts import FLOAT32, float32_island
from engines.contract import OpenOptions
from engines.engine import open_engine
from engines.errors import ExportError
from engines.imaging.images import PixelArray
from engines.manifest import Manifest
from engines.onnx_graph.files import Graph, Names, read_graph, write_graph
from engines.parity.outputs import batches

LARGEST_FLOAT16 = 65504.0
_NEAR = 0.5
"""Share of the range above which a warning is due: other images may reach further."""


@dataclasses.dataclass(frozen=True)
class Reach:
    """The largest magnitude of one tensor, and the node that made it."""

    node: str
    largest: float


def scan(
    onnx: Path,
    manifest: Manifest,
    pixels: PixelArray,
    *,
    progress: Callable[[int], None] | None = None,
) -> list[Reach]:
    """Return how far every tensor outside the float32 island reaches, the furthest first.

    What is not a number comes before everything.

    Args:
        onnx: An exported float32 graph.
        manifest: Its manifest.
        pixels: (I, height, width, 3) real images.
        progress: Called with the number of images done since the last call.
    """
    graph = read_graph(onnx)
    watched = _watch(graph)
    found = dict.fromkeys(watched, 0.0)
    with tempfile.TemporaryDirectory(prefix="fpet-export-") as folder:
        path = Path(folder) / "scanned.onnx"
        write_graph(graph, path)
        with open_engine(path, options=OpenOptions()) as engine:
            for feeds, count in batches(engine, manifest, pixels):
                outputs = engine.run(feeds)
                for name in watched:
                    found[name] = float(np.maximum(found[name], outputs[name]))  # keeps NaN
                if progress is not None:
                    progress(count)
    reaches = [Reach(watched[name], largest) for name, largest in found.items()]
    return sorted(reaches, key=lambda reach: (not np.isnan(reach.largest), -reach.largest))


def judge(reaches: list[Reach], *, images: str) -> str | None:
    """Refuse what float16 cannot hold; return a warning for what comes near, or None.

    Raises:
        ExportError: A tensor leaves the range.
    """
    furthest = reaches[0]
    if not furthest.largest <= LARGEST_FLOAT16:
        beyond = sum(not reach.largest <= LARGEST_FLOAT16 for reach in reaches)
        raise ExportError(
            f"{furthest.node} reaches {furthest.largest:.4g} on {images}, float16 ends at "
            f"{LARGEST_FLOAT16:g} ({beyond} tensors beyond it)",
            where=furthest.node,
            fix="use --precision bf16, which has the range of float32",
        )
    if furthest.largest > _NEAR * LARGEST_FLOAT16:
        return f"{furthest.node} reaches {furthest.largest:.4g} of {LARGEST_FLOAT16:g}"
    return None


def _watch(graph: Graph) -> dict[str, str]:
    """Make the largest magnitude of every tensor an output; return output to node."""
    island, names = float32_island(graph), Names(graph)
    watched = {}
    outputs = []
    for node in list(graph.nodes):
        if id(node) in island:
            continue
        for tensor in node.outputs:
            if tensor.dtype != FLOAT32:
                continue
            name = names.new(f"{node.name}/reach")
            magnitude = gs.Variable(names.new(f"{name}/abs"), dtype=FLOAT32, shape=tensor.shape)
            largest = gs.Variable(name, dtype=FLOAT32, shape=())
            graph.layer(name=f"{name}/Abs", op="Abs", inputs=[tensor], outputs=[magnitude])
            graph.layer(
                name=f"{name}/ReduceMax",
                op="ReduceMax",
                inputs=[magnitude],
                outputs=[largest],
                attrs={"keepdims": 0},
            )
            watched[name] = node.name
            outputs.append(largest)
    graph.outputs = outputs
    return watched
