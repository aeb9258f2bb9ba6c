"""Python's search for objects that hold each other, put off while much is made and all is kept.

Importing PyTorch and tracing a module make millions of small objects, and Python looks through all
that exist again and again meanwhile. It finds next to nothing: a fifth of the time for nothing.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def collected_later() -> Iterator[None]:
    """Put collections off until the end; whoever has switched them off finds them off."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
