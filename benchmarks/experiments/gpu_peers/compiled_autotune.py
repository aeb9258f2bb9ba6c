"""torch.compile with max-autotune, which takes minutes; then one CUDA graph."""

from __future__ import annotations

from benchmarks.experiments.gpu_peers._cuda import compiled, module_on_device, open_module
from benchmarks.peers import PeerSource
from engines.contract import Engine

_MODE = "max-autotune-no-cudagraphs"


def open_peer(source: PeerSource, *, threads: int) -> Engine:
    """Open the module on the GPU; the compiler runs with the first batch."""
    module = compiled(module_on_device(source, "compiled_autotune"), mode=_MODE)
    facts = {"compiler": "inductor", "mode": _MODE}
    return open_module(module, name="compiled_autotune", source=source, graph=True, facts=facts)
