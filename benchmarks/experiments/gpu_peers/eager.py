"""PyTorch as it is."""

from __future__ import annotations

from benchmarks.experiments.gpu_peers._cuda import module_on_device, open_module
from benchmarks.peers import PeerSource
from engines.contract import Engine


def open_peer(source: PeerSource, *, threads: int) -> Engine:
    """Open the module on the GPU."""
    module = module_on_device(source, "eager")
    return open_module(module, name="eager", source=source, graph=False, facts={})
