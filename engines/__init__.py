"""Build, open and run engines: the half of the toolkit that also runs on a board.

Needs numpy only. Everything heavier (ONNX Runtime, TensorRT) is imported by the one backend file
that uses it, when that backend is chosen. A name of this page is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engines.contract import BuildOptions, Engine, OpenOptions
    from engines.engine import build, open_engine
    from engines.engine import open_engine as open
    from engines.parity.outputs import compare
    from engines.tasks.open_tasks import open_tasks

_HOME = {
    "BuildOptions": "engines.contract",
    "Engine": "engines.contract",
    "OpenOptions": "engines.contract",
    "build": "engines.engine",
    "compare": "engines.parity.outputs",
    "open_engine": "engines.engine",
    "open_tasks": "engines.tasks.open_tasks",
}

__all__ = [
    "BuildOptions",
    "Engine",
    "OpenOptions",
    "build",
    "compare",
    "open",
    "open_engine",
    "open_tasks",
]


def __getattr__(name: str) -> Any:
    """Import a name of this page (PEP 562)."""
    wanted = "open_engine" if name == "open" else name
    if wanted not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[wanted]), wanted)
