"""The folder of a sweep: one folder a step, which appears whole, and the ledger of what was begun.

A step computes in a hidden folder beside the place where it will lie, and the last thing it writes
there is its record. One rename then makes it visible. So a worker that is killed leaves nothing
under a final name, and of two workers that compute the same step the first to finish counts.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import json
import os
import shutil
import socket
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from engines import storage
from engines.errors import FpetError, TrustError, UsageError
from engines.manifest import from_json
from engines.parity.finite import json_ready

SCHEMA = 1
RECORD, GRID, PAGE = "record.json", "sweep.json", "report.html"
_LEDGER, _WORK, _LOCK, _PART = "ledger.jsonl", "work", ".lock", ".part"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
    """What a step came to: see `Record`."""

    facts: dict[str, Any]
    inputs: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Failure:
    """What went wrong in a step: an error of ours, taken apart, or a bug with its traceback."""

    name: str
    exit_code: int
    what: str
    where: str
    fix: str
    traceback: str = ""

    @classmethod
    def of(cls, error: FpetError) -> Failure:
        """Take an error apart."""
        return cls(
            name=type(error).__name__,
            exit_code=error.exit_code,
            what=error.what,
            where=error.where,
            fix=error.fix,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """What a step came to.

    Attributes:
        key: Of the step that was done: what was asked, and of what.
        asked: What was asked, by name, as `Step.settings` has it.
        facts: What it found, plain JSON values.
        inputs: SHA-256 of what it read from outside the sweep, by path; of a folder of images, of
            the list of its names.
        unreadable: Images that were left out.
        said: What it reported, as (name, text).
        seconds: How long it took.
        host: Where it ran.
        failure: What went wrong; None where nothing did.
        schema: Version of this layout.
    """

    key: str
    asked: dict[str, Any]
    facts: dict[str, Any]
    inputs: dict[str, str]
    unreadable: tuple[str, ...] = ()
    said: tuple[tuple[str, str], ...] = ()
    seconds: float
    host: str
    failure: Failure | None = None
    schema: int = SCHEMA


class Store:
    """Reads and writes the folder of a sweep.

    Args:
        root: The folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, name: str) -> Path:
        """Return where a step lies once it was done."""
        return self.root / _WORK / name

    def record(self, name: str) -> Record | None:
        """Return what a step came to; None where it was not done yet.

        Raises:
            TrustError: The record is damaged, or of another version.
        """
        path = self.folder(name) / RECORD
        try:
            document = json.loads(path.read_text("utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise _damaged(path, error) from error
        try:
            if document["schema"] != SCHEMA:
                raise ValueError(f"schema {document['schema']!r}, this version reads {SCHEMA}")
            return from_json(Record, document)
        except (KeyError, TypeError, ValueError) as error:
            raise _damaged(path, error) from error

    @contextlib.contextmanager
    def room(self, name: str) -> Iterator[Path]:
        """Yield a hidden folder to compute a step in; it is removed unless it was committed."""
        final = self.folder(name)
        final.parent.mkdir(parents=True, exist_ok=True)
        folder = final.with_name(f".{final.name}.{uuid.uuid4().hex}{_PART}")
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def commit(self, name: str, folder: Path, record: Record) -> bool:
        """Make a computed step visible; False where another worker was first."""
        document = json_ready(dataclasses.asdict(record))
        text = json.dumps(document, indent=1, allow_nan=False) + "\n"
        storage.write_text(folder / RECORD, text)
        try:
            folder.rename(self.folder(name))
        except OSError:
            if not (self.folder(name) / RECORD).is_file():
                raise
            return False
        return True

    def forget(self, name: str) -> None:
        """Remove a step; the record goes first, so that half of it counts for nothing."""
        folder = self.folder(name)
        (folder / RECORD).unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)

    def log(self, event: Literal["began", "recorded"], name: str) -> None:
        """Add a line to the ledger, in one write."""
        entry = {
            "event": event, "step": name, "time": round(time.time(), 3),
            "host": socket.gethostname(), "pid": os.getpid(),
        }  # fmt: skip
        line = (json.dumps(entry) + "\n").encode()
        number = os.open(self.root / _LEDGER, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            os.write(number, line)
        finally:
            os.close(number)

    def ledger(self) -> Sequence[Mapping[str, Any]]:
        """Return every line of the ledger; one that a full disk cut short is left out."""
        try:
            lines = (self.root / _LEDGER).read_text("utf-8").splitlines()
        except FileNotFoundError:
            return []
        found = []
        for line in lines:
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
        return found

    def grid(self) -> dict[str, Any] | None:
        """Return what was asked of the folder the last time; None where nothing was.

        Raises:
            TrustError: The file is damaged, or of another version.
        """
        path = self.root / GRID
        try:
            document = json.loads(path.read_text("utf-8"))
            if document["schema"] != SCHEMA:
                raise ValueError(f"schema {document['schema']!r}, this version reads {SCHEMA}")
            return dict(document)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise TrustError(
                f"the description of the grid cannot be read: {error}",
                where=str(path),
                fix="choose another folder; or remove this file: results that are whole are kept",
            ) from error

    def unfinished(self) -> int:
        """Return how many times a step was begun and not recorded by the worker that began it."""
        counts = collections.Counter(line["event"] for line in self.ledger())
        return counts["began"] - counts["recorded"]

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other sweeps out of the folder, and remove what killed workers left behind.

        Raises:
            UsageError: Another sweep works there.
        """
        import fcntl  # Linux and macOS have it; `--help` answers without

        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / _LOCK).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UsageError(
                    "another sweep is writing into this folder",
                    where=str(self.root),
                    fix="wait until it has ended, or choose another folder",
                ) from error
            self.remove_parts()
            try:
                yield
            finally:
                self.remove_parts()

    def remove_parts(self) -> None:
        """Remove the hidden folders of steps that were begun and not finished."""
        for part in (self.root / _WORK).glob(f"*/.*{_PART}"):
            shutil.rmtree(part, ignore_errors=True)


def _damaged(path: Path, error: Exception) -> TrustError:
    return TrustError(
        f"the record of a step cannot be read: {error}",
        where=str(path),
        fix=f"remove the folder {path.parent}, and the sweep computes it again",
    )
