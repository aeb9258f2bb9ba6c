"""A process of its own that undoes what was set on a machine, whatever becomes of who set it.

It has a session of its own, so that neither Ctrl-C nor a closed terminal reaches it, and it holds
one end of a pipe. Every change is made by it, and it knows how to undo one before it begins. When
the other end of the pipe closes, because its owner is done, was killed or has crashed, it undoes
everything in reverse order.

Standard library only, because it also runs on boards, and starts without the site packages.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_COMMAND_S = 60.0
"""How long a change may take."""
_TRIES = 3
"""How often something is undone that fails: a busy board refuses now and then."""
_PAUSE_S = 1.0
_PROGRAM = "import sys; sys.path.insert(0, sys.argv.pop(1)); from engines.machine import guard; "


@dataclasses.dataclass(frozen=True)
class Done:
    """A command that ran: its exit status, None where it could not run, and what it said."""

    code: int | None
    said: str


class GuardLostError(Exception):
    """The guard has ended before it was told to."""


class Guard:
    """Makes changes to the machine, and undoes them at the end of `with` or of this process.

    Args:
        folder: For what commands keep; made by it, and removed when everything is undone.
        lock: Handle of what keeps others off the machine; held until everything is undone.
    """

    def __init__(self, folder: Path, *, lock: int | None = None) -> None:
        self._folder, self._undo = folder, list[list[str]]()
        command = [sys.executable, "-I", "-S", "-c", f"{_PROGRAM}guard.main()", str(_home())]
        self._process = subprocess.Popen(
            [*command, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=() if lock is None else (lock,),
        )

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._process.pid

    def change(self, do: Sequence[str], *, undo: Sequence[str] | None = None) -> Done:
        """Run a command that changes something; it is undone by another one, at the end.

        Questions of the command are answered with "no".

        Args:
            do: The command.
            undo: What undoes it, from the moment on at which it begins; None where an earlier one
                undoes this too.

        Raises:
            GuardLostError: The guard has ended.
        """
        if undo is not None:
            self._undo.append(list(undo))
        return self._ask({"do": list(do), "undo": None if undo is None else list(undo)})

    def look(self, do: Sequence[str], *, undo: Sequence[str]) -> Done:
        """Run a command that changes nothing, but after whose success `undo` restores everything.

        Raises:
            GuardLostError: The guard has ended.
        """
        done = self._ask({"do": list(do), "undo": list(undo), "only_after_success": True})
        if done.code == 0:
            self._undo.append(list(undo))
        return done

    def restore(self) -> list[Done]:
        """Undo everything, here where the guard was killed; return what failed."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(OSError, ValueError):
            process.stdin.close()
        told = process.stdout.read().splitlines()  # an answer that nobody waited for, too
        process.stdout.close()
        process.wait()
        last = json.loads(told[-1]) if told else {}
        if "failed" in last:
            return [Done(one["code"], one["said"]) for one in last["failed"]]
        return _undone_all(self._undo, self._folder)

    def _ask(self, question: dict[str, Any]) -> Done:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(question).encode() + b"\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except OSError as error:
            raise GuardLostError from error
        if not answer:
            raise GuardLostError
        told = json.loads(answer)
        return Done(told["code"], told["said"])


def main() -> None:
    """Do what stdin's lines ask for; undo everything when it ends, or at SIGTERM."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end)
    undo: list[list[str]] = []
    folder = Path(sys.argv[1])
    try:
        folder.mkdir(mode=0o700)
        for line in sys.stdin:
            asked = json.loads(line)
            only_after = asked.get("only_after_success", False)
            if asked["undo"] is not None and not only_after:
                undo.append(asked["undo"])
            done = _run(asked["do"])
            if only_after and done.code == 0:
                undo.append(asked["undo"])
            _tell(dataclasses.asdict(done))
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        failed = _undone_all(undo, folder)
        _tell({"failed": [dataclasses.asdict(done) for done in failed]})


def _end(number: int, frame: object) -> None:
    sys.exit(128 + number)


def _undone_all(undo: Sequence[list[str]], folder: Path) -> list[Done]:
    """Undo in reverse order, and remove the folder; return what failed."""
    failed = [done for done in map(_undone, reversed(undo)) if done.code != 0]
    shutil.rmtree(folder, ignore_errors=True)
    return failed


def _undone(words: list[str]) -> Done:
    done = _run(words)
    for _ in range(_TRIES - 1):
        if done.code == 0:
            break
        time.sleep(_PAUSE_S)
        done = _run(words)
    return done


def _run(words: list[str]) -> Done:
    try:
        done = subprocess.run(
            words,
            input="no\n",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=_COMMAND_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Done(None, f"{words[0]} did not end within {_COMMAND_S:.0f} s")
    except OSError as error:
        return Done(None, str(error))
    return Done(done.returncode, done.stdout)


def _tell(answer: object) -> None:
    with contextlib.suppress(OSError):  # nobody hears it any more
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _home() -> Path:
    """Return what a new Python must search for this module: a folder, or the agent's file."""
    return Path(__file__).parents[2].absolute()
