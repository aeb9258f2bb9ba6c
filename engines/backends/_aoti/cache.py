"""Where PyTorch's compiler keeps its cache while this toolkit calls it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"


@contextlib.contextmanager
def inductor_cache(folder: Path) -> Iterator[None]:
    """Let PyTorch keep its compiler's cache in `folder`, not for ever in the system's.

    Parts of PyTorch make the folder as soon as they are imported, and never use it. A place that
    the user's environment names stays.
    """
    before = os.environ.get(_VARIABLE)
    if before is None:
        os.environ[_VARIABLE] = str(folder / "inductor")
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(_VARIABLE, None)
