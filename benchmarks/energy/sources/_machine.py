"""What a source is told of the machine, and readers of small files that kernels write."""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from engines.machine.jetson import JetsonIdentity
    from engines.targets import PowerRails

Device = Literal["cpu", "gpu"]
"""What does the work that is measured."""
_WHOLE = re.compile(rb"\s*(-?[0-9]{1,18})\s*")
_LONGEST = 4096


@dataclasses.dataclass(frozen=True, kw_only=True)
class Machine:
    """What a source needs to know.

    Attributes:
        root: Where `sys` and `proc` are; another folder in tests.
        board: The Jetson that this is; None elsewhere.
        rails: Its rule for the total, or why that is not known; None elsewhere.
    """

    root: Path = Path("/")
    board: JetsonIdentity | None = None
    rails: PowerRails | str | None = None


def whole_number(path: Path) -> int:
    """Return the whole number that a file holds.

    Raises:
        OSError: It cannot be read now, or holds something else.
    """
    found = _WHOLE.fullmatch(_bytes(path))
    if found is None:
        raise OSError(f"{path} holds no whole number")
    return int(found[1])


def word(path: Path) -> str:
    """Return the text of a file without spaces around it; "" where it cannot be read."""
    try:
        return _bytes(path).decode("ascii", "replace").strip("\0\n\t ")
    except OSError:
        return ""


def _bytes(path: Path) -> bytes:
    # Not `Path.read_bytes`: where a sensor answers EAGAIN, Python's buffered reader raises a
    # TypeError instead of an OSError.
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(handle, _LONGEST)
    finally:
        os.close(handle)
