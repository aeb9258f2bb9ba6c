"""A verb of the agent on another machine: its lines are heard here, its document comes back."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from engines import errors
from engines.errors import FpetError, RemoteError
from fpet_export.reporter import Reporter

if TYPE_CHECKING:
    from fpet_export.board.ssh import Remote

_AGENT = ("python3", "agent.pyz")


def call_agent(remote: Remote, argv: Sequence[str], reporter: Reporter) -> Any:
    """Run a verb of the agent there, with its lines here; return its JSON document.

    Raises:
        FpetError: What the agent refused, as the same class, with the machine's name.
        RemoteError: The agent was killed, or gave no document.
    """
    done = remote.run((*_AGENT, *argv, "--json"), line=_until_its_end(reporter))
    try:
        document = json.loads(done.out)
    except ValueError as error:
        raise RemoteError(
            f"python3 agent.pyz {argv[0]} ended with {done.code} and no answer on {remote.host}",
            where=f"{remote.host}:{remote.folder}",
            fix=f"try it there: ssh {remote.host}, then {shlex.join((*_AGENT, *argv))}",
        ) from error
    if done.code:
        raise _same_error(document, remote)
    return document


def _until_its_end(reporter: Reporter) -> Callable[[str], None]:
    """Return what prints the agent's lines, up to those that say what to type next over there."""
    has_ended = False

    def line(text: str) -> None:
        nonlocal has_ended
        has_ended = has_ended or text.startswith(" next ")
        if not has_ended:
            reporter.line(text)

    return line


def _same_error(document: Any, remote: Remote) -> FpetError:
    told = document.get("error", {}) if isinstance(document, dict) else {}
    kind = getattr(errors, str(told.get("class")), RemoteError)
    if not (isinstance(kind, type) and issubclass(kind, FpetError)):
        kind = RemoteError
    return kind(
        f"on {remote.host}: {told.get('what', 'the agent failed')}",
        where=f"{remote.host}: {told.get('where', remote.folder)}",
        fix=str(told.get("fix", "look at what it printed")),
    )
