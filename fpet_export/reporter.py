"""Who hears of the steps of long work: a terminal, a notebook, or nobody.

A workflow function takes a `Reporter` and never prints. The command line's console is one, a
notebook may bring its own, and `SILENT` is the default everywhere.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol


class Reporter(Protocol):
    """Hears what is done while it is done.

    Attributes:
        keeps: Where interrupted work has left what it can go on from; None before there is any.
    """

    keeps: Path | None

    @property
    def width(self) -> int:
        """Columns that a table may take."""

    @property
    def steps(self) -> Sequence[FinishedStep]:
        """The steps so far, for a report of the whole."""

    def align(self, names: Sequence[str]) -> None:
        """Hear the names of steps to come, so that their texts may begin in one column."""

    def step(self, name: str, text: str, *, passed: bool | None = True) -> None:
        """Hear of a finished step; `passed` is None where it needs attention but did not fail."""

    def warn(self, name: str, text: str, **facts: Any) -> None:
        """Hear of a step that needs attention; `facts` say the same for programs, as JSON."""

    def unreadable(self, names: Sequence[str]) -> None:
        """Hear which images were left out because they cannot be read."""

    def line(self, text: str = "") -> None:
        """Hear one line of text as it is."""

    def paragraph(self, text: str) -> None:
        """Hear a sentence, to be broken at the width."""

    def explain(self, meanings: Sequence[str]) -> None:
        """Hear what terms mean; each is worth saying once."""

    def detail(self, text: str) -> None:
        """Hear what only somebody who asked for details wants to know."""

    def bullet(self, text: str) -> None:
        """Hear one entry of a list."""

    def table(self, rows: Sequence[Sequence[str]], *, words: bool = False) -> None:
        """Hear rows of cells, heading first; with `words` the last column holds sentences."""

    def working(self, text: str) -> AbstractContextManager[None]:
        """Hear that long work begins whose steps nobody counts."""

    def progress(self, text: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
        """Hear that `total` steps begin, and then of so many more; 0 where nobody knows."""

    def phases(self, text: str) -> AbstractContextManager[Callable[[str, int, int], None]]:
        """Hear that `text` begins, then of its phases as (name, done, total), which may nest."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinishedStep:
    """One finished step: what was done in one word, what it found, and whether it passed.

    `passed` is None where the step needs attention; `seconds` count since the step before.
    """

    name: str
    text: str
    passed: bool | None
    seconds: float


class Silent:
    """A reporter that says and remembers nothing, so one can serve everybody.

    What went wrong is raised as an error all the same.
    """

    width = 80
    steps: Sequence[FinishedStep] = ()

    @property
    def keeps(self) -> Path | None:
        """None: what interrupted work left is not remembered."""
        return None

    @keeps.setter
    def keeps(self, path: Path | None) -> None:
        """Forget it."""

    def align(self, names: Sequence[str]) -> None:
        """Say nothing."""

    def step(self, name: str, text: str, *, passed: bool | None = True) -> None:
        """Say nothing."""

    def warn(self, name: str, text: str, **facts: Any) -> None:
        """Say nothing."""

    def unreadable(self, names: Sequence[str]) -> None:
        """Say nothing."""

    def line(self, text: str = "") -> None:
        """Say nothing."""

    def paragraph(self, text: str) -> None:
        """Say nothing."""

    def explain(self, meanings: Sequence[str]) -> None:
        """Say nothing."""

    def detail(self, text: str) -> None:
        """Say nothing."""

    def bullet(self, text: str) -> None:
        """Say nothing."""

    def table(self, rows: Sequence[Sequence[str]], *, words: bool = False) -> None:
        """Say nothing."""

    @contextlib.contextmanager
    def working(self, text: str) -> Iterator[None]:
        """Say nothing."""
        yield

    @contextlib.contextmanager
    def progress(self, text: str, total: int) -> Iterator[Callable[[int], None]]:
        """Say nothing."""
        yield lambda count: None

    @contextlib.contextmanager
    def phases(self, text: str) -> Iterator[Callable[[str, int, int], None]]:
        """Say nothing."""
        yield lambda name, done, total: None


class Recorder(Silent):
    """A reporter that says nothing and remembers the steps, and what interrupted work left."""

    keeps: Path | None = None

    def __init__(self) -> None:
        self.steps: list[FinishedStep] = []
        self._began = time.monotonic()

    def step(self, name: str, text: str, *, passed: bool | None = True) -> None:
        """Remember a step."""
        now = time.monotonic()
        seconds, self._began = now - self._began, now
        self.steps.append(FinishedStep(name=name, text=text, passed=passed, seconds=seconds))

    def warn(self, name: str, text: str, **facts: Any) -> None:
        """Remember a step that needs attention."""
        self.step(name, text, passed=None)


SILENT: Reporter = Silent()
"""The default: long work is done without a word."""
