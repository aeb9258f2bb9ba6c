"""The verbs of the command line: one file a verb, named as it is typed."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

from fpet_export.reporter import Reporter

GROUPS = {
    "make": "from a run to an engine",
    "judge": "whether it is right and faster",
    "use": "to use it",
    "pack": "for another machine",
    "machine": "about machines",
}
"""What verbs are for, in the order in which the help lists them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a verb leaves for its caller.

    Attributes:
        document: Everything it found, for `--json`.
        result: The one line on stdout: the path written, or the answer.
        next: Commands to type next.
        exit_code: 0, or that of a failure which was already reported.
    """

    document: dict[str, Any]
    result: str = ""
    next: Sequence[str] = ()
    exit_code: int = 0


class Verb(Protocol):
    """What a file in `fpet_export/cli/verbs/` offers."""

    GROUP: str
    """One of `GROUPS`."""

    HELP: str
    """One line for the list of verbs."""

    DESCRIPTION: str
    """What it does, what it leaves, and an example."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the verb's arguments."""

    def run(self, options: argparse.Namespace, reporter: Reporter) -> Outcome:
        """Do it. Whatever goes wrong is raised as an FpetError."""
