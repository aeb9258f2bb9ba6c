"""Preloaded by the workers on this machine: Ctrl-C is for the sweep, which ends them itself.

A terminal sends it to all processes at once, and each would print a traceback.
"""

from __future__ import annotations

import signal
from typing import Any


def dask_setup(worker: Any) -> None:
    """Ignore Ctrl-C in the worker that starts."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
