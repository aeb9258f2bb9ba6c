"""One measurement at a time on a machine, whoever starts it.

Two that run at once spoil each other: both find a noisy neighbour, and both call themselves
invalid. The lock is the kernel's own, so it ends with the process that holds it, however that ends.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

_NAME = "fpet-export-measuring.lock"
_LOOK_S = 0.2


@contextlib.contextmanager
def holding_device(
    waiting: Callable[[], None],
    *,
    path: Path | None = None,
    pause: Callable[[float], None] = time.sleep,
) -> Iterator[int | None]:
    """Wait until nobody else measures on this machine, and keep others waiting meanwhile.

    Where the system has no such locks, or no folder for one, nobody waits.

    Args:
        waiting: Called once, when another measurement is found.
        path: The lock; None is one file for all users of the machine.
        pause: Waits between two looks.

    Yields:
        The handle of the lock: a process that inherits it goes on holding the machine. None
        without a lock.
    """
    handle = _opened(Path(tempfile.gettempdir()) / _NAME if path is None else path)
    if handle is None:
        yield None
        return
    try:
        _lock(handle, waiting, pause)
        yield handle
    finally:
        os.close(handle)


def _opened(path: Path) -> int | None:
    """Return a handle of the file, made where it is not there yet; it may be another user's."""
    for flags in (os.O_RDONLY, os.O_RDWR | os.O_CREAT):
        with contextlib.suppress(OSError):
            return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o644)
    return None


def _lock(handle: int, waiting: Callable[[], None], pause: Callable[[float], None]) -> None:
    try:
        import fcntl  # Linux and macOS have it
    except ImportError:
        return
    told = False
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not told:
                waiting()
                told = True
            pause(_LOOK_S)
        except OSError:  # a file system without locks
            return
        else:
            return
