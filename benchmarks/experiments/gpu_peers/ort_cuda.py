"""The engine that this toolkit builds for ONNX Runtime's CUDA provider."""

from __future__ import annotations

from benchmarks.experiments.gpu_peers._built import open_built
from benchmarks.peers import PeerSource
from engines import registry
from engines.contract import Engine

registry.import_or_explain("engines.backends.ort")


def open_peer(source: PeerSource, *, threads: int) -> Engine:
    """Build the engine beside the graph and open it."""
    return open_built(source, "cuda", name="ort_cuda", threads=threads)
