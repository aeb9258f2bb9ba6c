"""A folder of tasks on another machine: built, checked task by task, measured."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fpet_export.board import transfer
from fpet_export.board.agent_call import call_agent
from fpet_export.board.packing import Packed
from fpet_export.board.session import RemoteSession
from fpet_export.reporter import Reporter
from fpet_export.requests import AllowFailed, Elsewhere
from fpet_export.steps import usable
from fpet_export.tasks import packing

if TYPE_CHECKING:
    from benchmarks.measurement import Measurement
    from engines.manifest import Manifest

IMAGES = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskBoard:
    """A bundle of a folder of tasks that lies unpacked on another machine."""

    board: RemoteSession

    def prove(self, *, more: Sequence[str] = ()) -> Mapping[str, Any]:
        """Build every graph there, and check every task against what it says here.

        Args:
            more: Options of `build`.

        Returns:
            The parity table as JSON, a row a task.

        Raises:
            EngineError: An engine cannot be built or opened there.
            ParityError: A task's answers are others.
        """
        remote, reporter = self.board.remote, self.board.reporter
        allowed = self.board.allowed
        call_agent(remote, ["build", "--force", *allowed, *more], reporter)
        found = call_agent(remote, ["check", *allowed], reporter)
        table: Mapping[str, Any] = found["parity"]
        return table

    def measure(self, words: Sequence[str]) -> Measurement:
        """Measure tasks there with the options of `bench`, and fetch the measurement."""
        return self.board.measure([], words)

    def fetch(self, engine: Path) -> Manifest:
        """Fetch an engine, see `RemoteSession.fetch`."""
        return self.board.fetch(engine)


@contextlib.contextmanager
def unpacked_there(folder: Path, request: Elsewhere, reporter: Reporter) -> Iterator[TaskBoard]:
    """Send a folder of tasks with the agent; the folder there is removed, unless the line breaks.

    Raises:
        TrustError: It is not a folder of tasks, or a file is not what its index says.
        RemoteError: The machine cannot be reached, or lacks room or a Python.
    """
    transfer.require_reachable(request)
    is_forced = isinstance(request, AllowFailed) and request.force_failed
    wanted = packing.PackRequest(artefact=folder, limit=IMAGES, force=True, force_failed=is_forced)

    def pack(bundle: Path) -> Packed:
        packed = packing.pack(wanted, bundle, reporter)
        return Packed(bundle=packed, checks={}, plain=None)

    with transfer.sent(folder.resolve().name, pack, request, reporter) as (remote, packed):
        board = RemoteSession(
            remote=remote,
            items=(),
            packed=packed,
            reporter=reporter,
            allowed=tuple(usable.failed_argv(wanted)),
        )
        yield TaskBoard(board=board)
