"""The graph as a plan that TensorRT-RTX builds here and now."""

from __future__ import annotations

from benchmarks.peers import PeerSource
from engines import registry
from engines.engine import BuildOptions, Engine, OpenOptions, build, open_engine

registry.import_or_explain("tensorrt_rtx")


def open_peer(source: PeerSource, *, threads: int) -> Engine:
    """Build the plan beside the graph and open it."""
    graph = source.graph("trt_rtx")
    plan = build(graph, target="rtx", options=BuildOptions(force=True))
    return open_engine(plan, options=OpenOptions(threads=threads, name="trt_rtx"))
