"""The graph as a plan that TensorRT builds here and now."""

from __future__ import annotations

from benchmarks.experiments.gpu_peers._built import open_built
from benchmarks.peers import PeerSource
from engines import registry
from engines.contract import Engine

registry.import_or_explain("tensorrt")


def open_peer(source: PeerSource, *, threads: int) -> Engine:
    """Build the engine beside the graph and open it."""
    return open_built(source, "tensorrt", name="trt", threads=threads)
