"""What a worker of a sweep does: one step at a time, unless it was done already."""

from __future__ import annotations

import dataclasses
import socket
import threading
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from engines import registry
from engines.errors import FpetError
from engines.machine.shortage import shortage
from fpet_export.reporter import Recorder
from fpet_export.steps.next_commands import engines_run_here
from fpet_export.sweep.steps import Step
from fpet_export.sweep.store import Failure, Found, Record, Store
from fpet_export.version import __version__

State = Literal["done", "failed", "blocked"]
"""What a step came to; one is blocked where a step that it needs has failed."""

_ONE_AT_A_TIME = threading.Lock()
"""PyTorch's exporter does not run twice in a process, and a worker may have several threads."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Greeting:
    """What a worker says of itself before anything is done.

    Attributes:
        host: Name of its machine.
        version: Of this toolkit there.
        sees: Whether the folder of the sweep is there the same.
        targets: Of those that were asked about, the ones whose engines run there.
    """

    host: str
    version: str
    sees: bool
    targets: tuple[str, ...]


class _Heard(Recorder):
    """Remembers the images that were left out, too."""

    def __init__(self) -> None:
        super().__init__()
        self.left_out: list[str] = []

    def unreadable(self, names: Sequence[str]) -> None:
        """Remember them."""
        self.left_out += names


def greet(token: Path, names: Sequence[str]) -> Greeting:
    """Say what this worker is.

    Args:
        token: A file in the folder of the sweep.
        names: Targets.
    """
    from engines.targets._lookup import load_target

    return Greeting(
        host=socket.gethostname(),
        version=__version__,
        sees=token.is_file(),
        targets=tuple(name for name in names if engines_run_here(load_target(name))),
    )


def perform(root: Path, step: Step, after: Sequence[Any] = ()) -> State:
    """Do a step of the sweep in `root`, unless its record is there.

    Args:
        root: The folder of the sweep.
        step: The step.
        after: Results of the steps that must come first; they lie in the folder.
    """
    store = Store(root)
    with _ONE_AT_A_TIME:
        known = state_of(step, store)
        if known is not None:
            return known
        store.log("began", step.name)
        with store.room(step.name) as folder:
            record = _record(step, folder, store)
            if not store.commit(step.name, folder, record):
                return state_of(step, store) or "done"
        store.log("recorded", step.name)
    return "done" if record.failure is None else "failed"


def state_of(step: Step, store: Store) -> State | None:
    """Return what a step came to; None where it is still to be done."""
    record = store.record(step.name)
    if record is not None:
        return "done" if record.failure is None else "failed"
    if any(state_of(need, store) in ("failed", "blocked") for need in step.needs):
        return "blocked"
    return None


def _record(step: Step, folder: Path, store: Store) -> Record:
    began, heard = time.monotonic(), _Heard()
    found, failure = Found(facts={}), None
    try:
        found = step.perform(folder, store, heard)
    except FpetError as error:
        failure = Failure.of(error)
    except ModuleNotFoundError as error:
        failure = Failure.of(registry.explained(error))
    except Exception as error:  # noqa: BLE001  # a bug in one point is no reason to lose the others
        known = shortage(error)
        failure = _bug(error) if known is None else Failure.of(known)
    return Record(
        key=step.key,
        asked=dict(step.asked),
        facts=found.facts,
        inputs=found.inputs,
        unreadable=tuple(heard.left_out),
        said=tuple((one.name, one.text) for one in heard.steps),
        seconds=time.monotonic() - began,
        host=socket.gethostname(),
        failure=failure,
    )


def _bug(error: Exception) -> Failure:
    return Failure(
        name=type(error).__name__,
        exit_code=1,
        what=f"a bug: {error}",
        where=type(error).__name__,
        fix="report it, with the traceback in the record of the step",
        traceback="".join(traceback.format_exception(error)),
    )
