"""Says every few seconds what long work is at, wherever nothing else shows that it goes on."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Iterator

INTERVAL_S = 8.0  # a line every ten seconds is promised; a busy interpreter may be late
Wait = Callable[[float], bool]
"""`wait(seconds)`: wait so long; whether the work has ended meanwhile."""


@dataclasses.dataclass(eq=False)
class Activity:
    """Something that takes long.

    Attributes:
        text: What it is.
        total: How many steps it has, or more where it needs more; 0 where nobody knows.
        began_s: When.
        done: Steps so far.
    """

    text: str
    total: int
    began_s: float
    done: int = 0

    def advance(self, steps: int) -> None:
        """Count steps that are done."""
        self.done += steps

    def describe(self, now_s: float) -> str:
        """Return what is going on, how far it is, for how long already and for how long still."""
        passed = now_s - self.began_s
        count = f"{self.done} of {max(self.total, self.done)}, " if self.total else ""
        left = ""
        if 0 < self.done < self.total:
            seconds = passed / self.done * (self.total - self.done)
            left = f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
            left = f", about {left} left"
        return f"{self.text}: {count}{passed:.0f} s{left}"


class Heartbeat:
    """Tells what is going on whenever nothing was printed for `INTERVAL_S`.

    Args:
        say: Prints a line.
        clock: Seconds, from a clock that never goes back.
    """

    def __init__(
        self, say: Callable[[str], None], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._say, self._clock = say, clock
        self._last_s = self._silent_since_s = clock()
        self._activities: list[Activity] = []
        self._is_shown = False

    def heard(self) -> None:
        """Note that something was printed just now."""
        self._last_s = self._silent_since_s = self._clock()

    @contextlib.contextmanager
    def activity(self, text: str, total: int) -> Iterator[Activity]:
        """Name what goes on inside, and count its steps."""
        current = Activity(text, total, self._clock())
        self._activities.append(current)
        try:
            yield current
        finally:
            self._activities.remove(current)

    @contextlib.contextmanager
    def shown_otherwise(self) -> Iterator[None]:
        """Say nothing inside: bars show that the work goes on."""
        self._is_shown = True
        try:
            yield
        finally:
            self._is_shown = False
            self.heard()

    def beat(self) -> float:
        """Say what goes on if it is time to, and return the seconds until the next time."""
        now = self._clock()
        if self._is_shown:
            self._last_s = self._silent_since_s = now
        left = self._last_s + INTERVAL_S - now
        if left > 0:
            return left
        activities = self._activities[-1:]
        since = self._silent_since_s
        self._say(
            "".join(one.describe(now) for one in activities) or f"at work: {now - since:.0f} s"
        )
        self._last_s, self._silent_since_s = now, since  # its own line tells nothing new
        return INTERVAL_S

    def keep_beating(self, wait: Wait) -> None:
        """Beat until `wait` says that the work has ended."""
        while not wait(self.beat()):
            pass

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Beat from a thread of its own while the body works."""
        ended = threading.Event()
        self.heard()
        thread = threading.Thread(
            target=self.keep_beating, args=(ended.wait,), name="heartbeat", daemon=True
        )
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
