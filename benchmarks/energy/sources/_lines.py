"""The lines of a program that prints one for every reading."""

from __future__ import annotations

import os
import select
import subprocess
import time
from collections.abc import Sequence

_LONGEST = 1 << 16


class Lines:
    """A program that was started; only whole lines of it are given out.

    Raises:
        OSError: It cannot be started.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._name = os.path.basename(command[0])  # noqa: PTH119 - a name, not a path
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self._rest = b""

    def next(self, *, within_s: float) -> str:
        """Return the next line without its end.

        Raises:
            OSError: The program ended, or printed no line in time.
        """
        assert self._process.stdout is not None
        handle, until = self._process.stdout.fileno(), time.monotonic() + within_s
        while b"\n" not in self._rest:
            left = until - time.monotonic()
            if left <= 0 or not select.select([handle], [], [], left)[0]:
                raise OSError(f"{self._name} printed nothing for {within_s:.0f} s")
            got = os.read(handle, _LONGEST)
            if not got:
                raise OSError(f"{self._name} ended")
            self._rest += got
            if len(self._rest) > _LONGEST and b"\n" not in self._rest:
                raise OSError(f"{self._name} prints no lines")
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode("ascii", "replace").rstrip("\r")

    def close(self) -> None:
        """End the program."""
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
