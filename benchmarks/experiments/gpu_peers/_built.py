"""Engines that are built from a graph before they are measured."""

from __future__ import annotations

from benchmarks.peers import PeerSource
from engines.contract import Engine, OpenOptions
from engines.engine import build, default_path, load_target, open_engine


def open_built(source: PeerSource, target: str, *, name: str, threads: int) -> Engine:
    """Build an engine beside the graph, unless it is there already, and open it.

    Args:
        source: Its graph.
        target: What it is built for.
        name: For tables.
        threads: Threads of one inference, on the CPU.
    """
    graph = source.graph(name)
    engine = default_path(graph, load_target(target))
    if not engine.exists():
        build(graph, target=target, out=engine)
    return open_engine(engine, options=OpenOptions(threads=threads, name=name))
