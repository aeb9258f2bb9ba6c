"""Build, open and run engines: the half of the toolkit that also runs on a board.

Needs numpy only. Everything heavier (ONNX Runtime, TensorRT) is imported by the one backend file
that uses it, when that backend is chosen.
"""

from engines.contract import BuildOptions, Engine, OpenOptions
from engines.engine import build, open_engine
from engines.engine import open_engine as open
from engines.parity.outputs import compare
from engines.tasks.open_tasks import open_tasks

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
