"""The standard streams, which may be closed, full, without a reader, or not in UTF-8.

What people read (stderr) may get lost without changing how a command ends: the exit code says it
too. The one result on stdout may not: where it cannot be delivered, the command says so.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import os
import sys
from typing import TextIO

from engines.errors import MachineError

NO_READER = 141
"""Exit code when the reader of stdout has gone, that of a program which SIGPIPE ends."""

_SPELL_OUT = "fpet_export.spell_out"
_IN_ASCII = {
    "✓": "ok", "✗": "x", "·": "-", "─": "-", "×": "x", "→": "->", "…": "...", "–": "-", "—": "-",
    "±": "+/-", "≤": "<=", "≥": ">=", "Δ": "d", "µ": "u",
}  # fmt: skip


class ReaderGoneError(Exception):
    """Who read stdout, as `head` does, has had enough."""


class StreamError(MachineError):
    """stdout takes nothing."""


def prepare() -> None:
    """Make the standard streams of this process safe; called once, before anything is opened.

    A closed one becomes the null device: else the next file that is opened, perhaps an artefact,
    would get its number, and the messages of C libraries with it. Signs that a stream's encoding
    lacks are spelled out, and the bytes of a file's name stay as they are.
    """
    for number in (0, 1, 2):
        _occupy(number)
    codecs.register_error(_SPELL_OUT, _spell_out)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=_SPELL_OUT)


def is_terminal() -> bool:
    """Say whether a person sees stderr."""
    try:
        return sys.stderr is not None and sys.stderr.isatty()
    except ValueError:  # somebody closed it
        return False


def tell(text: str) -> None:
    """Print a line on stderr; where nobody can hear it, it is dropped."""
    if sys.stderr is None:
        return
    try:
        print(text, file=sys.stderr, flush=True)
    except (OSError, ValueError):
        _discard(sys.stderr)


def answer(text: str) -> None:
    """Print the result on stdout.

    Raises:
        ReaderGoneError: Nobody reads it any more.
        StreamError: stdout is closed, or what it leads to takes nothing, as a full disk.
    """
    if sys.stdout is None:
        raise _refusal("it is closed")
    try:
        print(text, flush=True)
    except (OSError, ValueError) as error:
        raise _failed(sys.stdout, error) from error


def flush() -> None:
    """Deliver what is still on its way to stdout; raises as `answer` does."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except (OSError, ValueError) as error:
        raise _failed(sys.stdout, error) from error


def _failed(stream: TextIO, error: Exception) -> Exception:
    _discard(stream)
    # A pipe without a reader is EPIPE; a socket or a pseudo-terminal may say it otherwise.
    if isinstance(error, OSError) and error.errno in (errno.EPIPE, errno.ECONNRESET):
        return ReaderGoneError()
    return _refusal(getattr(error, "strerror", None) or str(error))


def _refusal(reason: str) -> StreamError:
    return StreamError(
        f"the result cannot be printed: {reason}",
        where="stdout",
        fix="send stdout to a file with free space, a pipe or /dev/null; written files remain",
    )


def _discard(stream: TextIO) -> None:
    """Let what is left in a stream go nowhere, else Python fails at its end with another code."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def _occupy(number: int) -> None:
    try:
        os.fstat(number)
    except OSError:
        nowhere = os.open(os.devnull, os.O_RDWR)
        if nowhere != number:
            os.dup2(nowhere, number)
            os.close(nowhere)


def _spell_out(error: UnicodeError) -> tuple[str | bytes, int]:
    """Encode one sign that the stream's encoding lacks."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    sign, behind = error.object[error.start], error.start + 1
    if 0xDC80 <= ord(sign) <= 0xDCFF:  # a byte of a file's name that is not UTF-8
        return bytes([ord(sign) - 0xDC00]), behind
    return _IN_ASCII.get(sign) or sign.encode("ascii", "backslashreplace").decode(), behind
