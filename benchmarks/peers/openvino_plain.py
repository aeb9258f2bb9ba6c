"""The plain graph in OpenVINO on the CPU, opened exactly as our own graphs are."""

from __future__ import annotations

from benchmarks.peers import PeerSource
from engines import registry
from engines.contract import Engine, OpenOptions
from engines.engine import backend

registry.import_or_explain("engines.backends.ov")


def open_peer(source: PeerSource, *, threads: int) -> Engine:
    """Open the plain graph in float32, one stream, the given threads."""
    graph = source.graph("openvino_plain")
    return backend("ov").open_engine(graph, None, options=OpenOptions(threads=threads))
