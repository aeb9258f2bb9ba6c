"""torch.compile with its default settings, then captured as one CUDA graph."""

from __future__ import annotations

from benchmarks.experiments.gpu_peers._cuda import compiled, module_on_device, open_module
from benchmarks.peers import PeerSource
from engines.contract import Engine

_MODE = "default"


def open_peer(source: PeerSource, *, threads: int) -> Engine:
    """Open the module on the GPU; the compiler runs with the first batch."""
    module = compiled(module_on_device(source, "compiled"), mode=_MODE)
    facts = {"compiler": "inductor", "mode": _MODE}
    return open_module(module, name="compiled", source=source, graph=True, facts=facts)
