"""The graph as it is written, in ONNX Runtime's CUDA provider, without a build."""

from __future__ import annotations

from benchmarks.peers import PeerSource
from engines import registry
from engines.contract import Engine, OpenOptions
from engines.engine import open_engine

registry.import_or_explain("engines.backends.ort")


def open_peer(source: PeerSource, *, threads: int) -> Engine:
    """Open the graph; never falls back to the CPU."""
    options = OpenOptions(threads=threads, provider="cuda", name="ort_as_written")
    return open_engine(source.graph("ort_as_written"), options=options)
