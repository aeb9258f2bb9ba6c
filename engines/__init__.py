"""Build, open and run engines: the half of the toolkit that also runs on a board.

Needs numpy only. Everything heavier (ONNX Runtime, TensorRT) is imported by the one backend file
that uses it, when that backend is chosen. A name of this page is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engines.lazy_names import imported_when_used

if TYPE_CHECKING:
    from engines.contract import BuildOptions, Engine, OpenOptions
    from engines.engine import build, open_engine
    from engines.engine import open_engine as open
    from engines.parity.outputs import compare
    from engines.tasks.open_tasks import open_tasks

_HOME = {
    "BuildOptions": "engines.contract.BuildOptions",
    "Engine": "engines.contract.Engine",
    "OpenOptions": "engines.contract.OpenOptions",
    "build": "engines.engine.build",
    "compare": "engines.parity.outputs.compare",
    "open": "engines.engine.open_engine",
    "open_engine": "engines.engine.open_engine",
    "open_tasks": "engines.tasks.open_tasks.open_tasks",
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

__getattr__ = imported_when_used(__name__, _HOME)
