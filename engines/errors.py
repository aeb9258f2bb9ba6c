"""Every exception that the toolkit raises on purpose, and the exit code of each.

FpetError
├── UsageError               2   options that exclude each other, an output that exists
│   └── UnknownNameError     2   no such method, format, merger, backend or target
├── InputError               3   a file is not what it claims to be
│   └── CheckpointError      3   a checkpoint cannot be read, or facts about it are missing
├── MissingDependencyError   4   an optional package, library or driver is needed and absent
├── MachineError             4   no room, no memory, a stream or a folder that takes nothing
├── ExportError              5   the frozen module does not become a valid graph
│   └── FoldError            5   an adapter cannot be folded exactly
├── EngineError              6   a plan cannot be built, opened or run
├── ParityError              7   two artefacts that must agree do not
├── BudgetError              8   a promised limit (latency, accuracy, memory) is missed
├── MeasurementError         9   a measurement is not valid
├── TrustError               10  a hash, a signature or a side-car does not match
└── RemoteError              11  another machine cannot be reached, or failed
"""

from __future__ import annotations

from typing import ClassVar


class FpetError(Exception):
    """Base of all errors this toolkit raises on purpose.

    Args:
        what: The fact, with the value found and the value wanted.
        where: A file, tensor, node, block or option.
        fix: Something to type or to change.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, *, where: str, fix: str) -> None:
        super().__init__(f"{what}\n  where: {where}\n  fix:   {fix}")
        self.what, self.where, self.fix = what, where, fix


class UsageError(FpetError):
    """The request contradicts itself or would overwrite something."""

    exit_code = 2


class UnknownNameError(UsageError):
    """There is no entry of this name in a registry folder."""


class InputError(FpetError):
    """A file or a value from outside is not what it claims to be."""

    exit_code = 3


class CheckpointError(InputError):
    """A checkpoint cannot be read, is inconsistent, or leaves a fact open."""


class MissingDependencyError(FpetError):
    """A package, a library or a driver that this request needs is absent."""

    exit_code = 4


class MachineError(FpetError):
    """The machine does not give what is needed: room, memory, or a place to write to."""

    exit_code = 4


class ExportError(FpetError):
    """The frozen module does not become a valid graph."""

    exit_code = 5


class FoldError(ExportError):
    """An adapter cannot be folded exactly."""


class EngineError(FpetError):
    """An engine cannot be built, opened or run."""

    exit_code = 6


class ParityError(FpetError):
    """Two artefacts that must agree do not."""

    exit_code = 7


class BudgetError(FpetError):
    """A promised limit is missed."""

    exit_code = 8


class MeasurementError(FpetError):
    """A measurement is not valid, so its number is not given."""

    exit_code = 9


class TrustError(FpetError):
    """A hash, a signature or a side-car does not match."""

    exit_code = 10


class RemoteError(FpetError):
    """Another machine cannot be reached, or what ran there was killed or failed."""

    exit_code = 11
