"""Several boards at once: what each one does is heard under its name."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from fpet_export.reporter import Reporter, Silent


class NamedReporter(Silent):
    """Tells the steps of one board at once, and everything else when the board is done.

    Tables and lines of boards that work at the same time would be read as one board's.
    """

    def __init__(self, name: str, reporter: Reporter, lock: threading.Lock) -> None:
        self._name, self._reporter, self._lock = name, reporter, lock
        self._kept: list[Callable[[], None]] = []
        self.width = reporter.width

    def step(self, name: str, text: str, *, passed: bool | None = True) -> None:
        """Tell a step, with the board's name."""
        with self._lock:
            self._reporter.step(name, f"{self._name}: {text}", passed=passed)

    def warn(self, name: str, text: str, **facts: Any) -> None:
        """Tell a step that needs attention, with the board's name."""
        with self._lock:
            self._reporter.warn(name, f"{self._name}: {text}", **facts)

    def line(self, text: str = "") -> None:
        """Keep a line."""
        self._kept.append(lambda: self._reporter.line(text))

    def paragraph(self, text: str) -> None:
        """Keep a sentence."""
        self._kept.append(lambda: self._reporter.paragraph(text))

    def table(self, rows: Sequence[Sequence[str]], *, words: bool = False) -> None:
        """Keep a table."""
        self._kept.append(lambda: self._reporter.table(rows, words=words))

    def tell(self) -> None:
        """Tell what was kept, below the board's name."""
        with self._lock:
            self._reporter.line()
            self._reporter.line(f"== {self._name}")
            for call in self._kept:
                call()
            self._kept.clear()


@contextlib.contextmanager
def named(name: str, reporter: Reporter, lock: threading.Lock) -> Iterator[NamedReporter]:
    """Yield a board's reporter; whatever happens, what it kept is told in the end."""
    found = NamedReporter(name, reporter, lock)
    try:
        yield found
    finally:
        found.tell()
