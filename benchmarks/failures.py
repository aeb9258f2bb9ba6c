"""Turn whatever a runtime raises into one error that a caller can record and go on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

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
