"""The plain graph in ONNX Runtime, opened exactly as our own graphs are."""

from __future__ import annotations

from benchmarks.peers import PeerSource
from engines import registry
from engines.contract import Engine, OpenOptions
from engines.engine import open_engine

registry.import_or_explain("engines.backends.ort")


def open_peer(source: PeerSource, *, threads: int) -> Engine:
    """Open the plain graph; same threads, same session settings as for any other graph."""
    return open_engine(source.graph("ort_plain"), options=OpenOptions(threads=threads))
