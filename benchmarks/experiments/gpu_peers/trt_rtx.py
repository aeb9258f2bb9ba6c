"""The graph as a plan that TensorRT-RTX builds here and now."""

from __future__ import annotations

from benchmarks.experiments.gpu_peers._built import open_built
from benchmarks.peers import PeerSource
from engines import registry
from engines.contract import Engine

registry.import_or_explain("tensorrt_rtx")


def open_peer(source: PeerSource, *, threads: int) -> Engine:
    """Build the engine beside the graph and open it."""
    return open_built(source, "rtx", name="trt_rtx", threads=threads)
