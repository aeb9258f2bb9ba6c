"""The plain module in PyTorch, run as it is."""

from __future__ import annotations

from benchmarks.peers import PeerSource
from benchmarks.peers._torch import open_module
from engines.contract import Engine


def open_peer(source: PeerSource, *, threads: int) -> Engine:
    """Open the module on the CPU under inference mode."""
    module = source.build_module("torch_eager")
    return open_module(module, name="torch_eager", source=source, threads=threads, facts={})
