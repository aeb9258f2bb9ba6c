"""Turn whatever a runtime raises into one error that a caller can record and go on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from engines.errors import EngineError, FpetError

_LONGEST = 300


@contextlib.contextmanager
def as_engine_error(where: str, *, fix: str = "leave this contender out") -> Iterator[None]:
    """Raise anything that is not ours as an EngineError with its first line.

    Compilers and drivers raise classes of their own; none of them may end a measurement of many.

    Raises:
        EngineError: Something failed that does not raise our errors.
    """
    try:
        yield
    except FpetError:
        raise
    except Exception as error:
        raise EngineError(
            f"{type(error).__name__}: {first_line(error)}", where=where, fix=fix
        ) from error


def first_line(error: BaseException) -> str:
    """Return the first line of a message, shortened, or that there is none."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:_LONGEST] if lines else "no message"


def last_words(log: Path) -> str:
    """Return the last line with an error in what a command said, else its last line."""
    lines = [line for line in log.read_text("utf-8", "replace").splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()]
    return first_line(Exception((errors or lines or ["no message"])[-1]))
