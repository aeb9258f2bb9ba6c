"""SIGTERM and SIGHUP end a command as Ctrl-C does: files that were begun and children go with it.

Unhandled, they end Python at once, and hidden temporary folders and a compiler or ssh stay behind.
"""

from __future__ import annotations

import signal
from types import FrameType

_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)
)  # Windows has no SIGHUP


INTERRUPTED = 130
"""Exit code after Ctrl-C."""


class Stopped(KeyboardInterrupt):  # what heeds Ctrl-C heeds this, too
    """Somebody asked this process to end.

    Attributes:
        name: Name of the signal, as "SIGTERM".
        exit_code: 128 and the signal's number, as a shell says it: 143 or 129.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.name = signal.Signals(number).name
        self.exit_code = 128 + number


class StopSignals:
    """Turns the first such signal into `Stopped`; further ones do not disturb the cleaning up.

    Attributes:
        received: What was raised; None so far.
        interrupted: Whether Ctrl-C was heard, whatever a library made of the exception.
    """

    def __init__(self) -> None:
        self.received: Stopped | None = None
        self.interrupted = False

    def listen(self) -> None:
        """Handle the signals, but not those that the caller ignores, as `nohup` does SIGHUP."""
        for number in _SIGNALS:
            if signal.getsignal(number) == signal.SIG_DFL:
                signal.signal(number, self._stop)
        if signal.getsignal(signal.SIGINT) == signal.default_int_handler:
            signal.signal(signal.SIGINT, self._interrupt)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self.interrupted = True
        raise KeyboardInterrupt

    def _stop(self, number: int, frame: FrameType | None) -> None:
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        self.received = Stopped(number)
        raise self.received


def told(error: KeyboardInterrupt) -> tuple[str, int, str]:
    """Return the name, the exit code and the words of what stopped a command."""
    if isinstance(error, Stopped):
        return type(error).__name__, error.exit_code, f"stopped by {error.name}"
    return "KeyboardInterrupt", INTERRUPTED, "interrupted"
