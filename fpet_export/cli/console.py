"""What people see: steps with their numbers, progress bars, tables. Only `streams` prints.

Everything for people goes to stderr; stdout carries one result, a path or one JSON document.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from fpet_export.cli import streams, terminal
from fpet_export.cli.heartbeat import Heartbeat
from fpet_export.reporter import FinishedStep

_COLOURS = {"✓": "32", "✗": "31", "!": "33", "·": "2"}


class Console:
    """Prints for people on stderr, and remembers the steps for a report: a `Reporter`.

    Args:
        quiet: Print nothing but errors.
        verbose: Print details too.

    Attributes:
        name_width: Columns for the names of steps.
        keeps: Where an interrupted command leaves what it has for the next one, once it does.
        left_out: Images that were left out because they cannot be read.
    """

    def __init__(self, *, quiet: bool = False, verbose: bool = False) -> None:
        self.quiet, self.verbose = quiet, verbose
        self.steps: list[FinishedStep] = []
        self.left_out: list[str] = []
        self.warnings: list[dict[str, Any]] = []
        self._terminal = streams.is_terminal()
        self._started = time.monotonic()
        self._explained: set[str] = set()
        self.name_width = 10
        self.keeps: Path | None = None
        self._heartbeat = Heartbeat(lambda text: self.line(f"   … {text}"))

    def align(self, names: Sequence[str]) -> None:
        """Make room for the names of steps to come."""
        self.name_width = max(map(len, names))

    def step(self, name: str, text: str, *, passed: bool | None = True) -> None:
        """Print one finished step: a tick, a cross, or "!" where `passed` is None."""
        now = time.monotonic()
        self.steps.append(
            FinishedStep(name=name, text=text, passed=passed, seconds=now - self._started)
        )
        self._started = now
        mark = {True: "✓", False: "✗", None: "!"}[passed]
        head = f" {mark} {name:<{self.name_width}} "
        broken = terminal.wrapped(text, first=head, rest=" " * (self.name_width + 4))
        self.line(broken.replace(mark, self._paint(mark), 1))

    def warn(self, name: str, text: str, **facts: Any) -> None:
        """Print a "!" step that the JSON document has too, under `warnings`.

        Args:
            name: Name of the step.
            text: For people.
            facts: The same for programs, plain JSON values.
        """
        self.step(name, text, passed=None)
        self.warnings.append({"name": name, "text": text, **facts})

    def unreadable(self, names: Sequence[str]) -> None:
        """Remember images that were left out, to list them at the end."""
        self.left_out += [name for name in names if name not in self.left_out]

    @property
    def width(self) -> int:
        """Columns of the terminal."""
        return terminal.terminal_width()

    def line(self, text: str = "") -> None:
        """Print a line for people."""
        self._heartbeat.heard()
        if not self.quiet:
            streams.tell(text)

    def paragraph(self, text: str) -> None:
        """Print a sentence for people, broken at the terminal's width."""
        self.line(terminal.wrapped(text, first="   ", rest="   "))

    def explain(self, meanings: Sequence[str]) -> None:
        """Print what terms mean, each of them once."""
        new = [line for line in meanings if line not in self._explained]
        self._explained.update(new)
        for line in new:
            self.line(terminal.wrapped(line, first="   ", rest="     "))
        if new:
            self.line()

    def detail(self, text: str) -> None:
        """Print a line that only `-v` shows."""
        if self.verbose:
            self.bullet(text)

    def bullet(self, text: str) -> None:
        """Print one entry of a list."""
        broken = terminal.wrapped(text, first="   · ", rest="     ")
        self.line(broken.replace("·", self._paint("·"), 1))

    def table(self, rows: Sequence[Sequence[str]], *, words: bool = False) -> None:
        """Print rows of cells, heading first; all but the first column to the right.

        With `words` the last column holds sentences.
        """
        for line in terminal.table(rows, indent="   ", words=words):
            self.line(line)

    def next_commands(self, commands: Sequence[str]) -> None:
        """Print what to type next."""
        for index, command in enumerate(commands):
            self.line(f"{' next       ' if index == 0 else '            '} {command}")

    @contextlib.contextmanager
    def alive(self) -> Iterator[None]:
        """Print a line every ten seconds inside, at least, unless quiet."""
        if self.quiet:
            yield
            return
        with self._heartbeat.running():
            yield

    @contextlib.contextmanager
    def working(self, text: str) -> Iterator[None]:
        """Name long work whose steps nobody counts."""
        with self.progress(text, 0):
            yield

    @contextlib.contextmanager
    def progress(self, text: str, total: int) -> Iterator[Callable[[int], None]]:
        """Show how far long work is; 0 steps in total mean that nobody knows.

        It is a bar where stderr is a terminal and rich is there, else a line every ten seconds.
        """
        with self._bars() as bars, self._heartbeat.activity(text, total) as activity:
            if bars is None:
                yield activity.advance
                return
            task = bars.add_task(text, total=total or None)
            yield lambda count: bars.advance(task, count)

    @contextlib.contextmanager
    def phases(self, text: str) -> Iterator[Callable[[str, int, int], None]]:
        """Show each phase that is told as (name, done, total), until it is done.

        Phases may be nested; a total of 0 means that nobody knows it. They are shown as those of
        `progress`.
        """
        with self._bars() as bars, self._heartbeat.activity(text, 0) as activity:
            tasks: dict[str, Any] = {}

            def tell(name: str, done: int, total: int) -> None:
                activity.text, activity.done, activity.total = name, done, total
                if bars is None:
                    return
                if name not in tasks:
                    tasks[name] = bars.add_task(name, total=total or None)
                bars.update(tasks[name], completed=done)
                if 0 < total <= done:
                    bars.remove_task(tasks.pop(name))

            yield tell

    @contextlib.contextmanager
    def _bars(self) -> Iterator[Any]:
        """Yield rich's bars, or None where there is no terminal, no rich, or nothing is wanted."""
        try:
            from rich.console import Console as RichConsole
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                Progress,
                TextColumn,
                TimeRemainingColumn,
            )
        except ImportError:
            yield None
            return
        if self.quiet or not self._terminal:
            yield None
            return
        columns = (TextColumn("   {task.description}"), BarColumn(), MofNCompleteColumn())
        progress = Progress(
            *columns, TimeRemainingColumn(), console=RichConsole(stderr=True), transient=True
        )
        with self._heartbeat.shown_otherwise(), progress as bars:
            yield bars

    def result(self, text: str) -> None:
        """Print the one result on stdout."""
        streams.answer(text)

    def json(self, document: Any) -> None:
        """Print one JSON document on stdout; an infinite number is null in it.

        Raises:
            ParityError: A number in it is not a number.
        """
        from engines.parity.finite import json_ready  # numpy comes with it

        document = json_ready(document)
        streams.answer(json.dumps(document, indent=1, default=str, allow_nan=False))

    def error(self, text: str) -> None:
        """Print an error, also when quiet."""
        what, *more = text.split("\n")
        lines = [terminal.wrapped(what, first="✗ error: ", rest="  ")]
        for line in more:  # "  where: …" and "  fix:   …"
            indent = len(line) - len(line.lstrip())
            lines.append(terminal.wrapped(line.strip(), first=" " * indent, rest=" " * 9))
        said = "\n".join(lines).replace("✗", self._paint("✗"), 1)
        streams.tell(said)

    def _paint(self, mark: str) -> str:
        return f"\x1b[{_COLOURS[mark]}m{mark}\x1b[0m" if self._terminal else mark
