"""Which scenarios are asked for, in the words of the command line."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Literal

from engines.errors import UsageError

_ASKED = re.compile(r"(stream|soak):([0-9]{1,6}(?:\.[0-9]{1,6})?)|offline|cold")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scenario:
    """What is asked for.

    Attributes:
        kind: See the modules of this folder.
        amount: Images a second of a stream, minutes of a soak; 0 for the others.
    """

    kind: Literal["stream", "offline", "cold", "soak"]
    amount: float = 0.0

    def __str__(self) -> str:
        """Return it as it is asked for."""
        return f"{self.kind}:{self.amount:g}" if self.amount else self.kind


def parse_scenario(text: str) -> Scenario:
    """Return what "stream:30", "offline", "cold" or "soak:10" asks for.

    Raises:
        UsageError: It is none of them.
    """
    found = _ASKED.fullmatch(text)
    if found is None or (found[2] is not None and float(found[2]) == 0):
        raise UsageError(
            f"{text!r} is no scenario",
            where="scenario",
            fix="write stream:30 (images a second), offline, cold or soak:10 (minutes)",
        )
    if found[1] is None:
        return Scenario(kind="cold" if text == "cold" else "offline")
    return Scenario(kind="stream" if found[1] == "stream" else "soak", amount=float(found[2]))


def parse_scenarios(texts: Sequence[str]) -> tuple[Scenario, ...]:
    """Return all that is asked for.

    Raises:
        UsageError: One is unknown, or asked for twice; of soaks there is one.
    """
    found = tuple(parse_scenario(text) for text in texts)
    once = [one.kind if one.kind != "stream" else str(one) for one in found]
    if len(set(once)) < len(once):
        raise UsageError(
            f"{', '.join(map(str, found))} asks for one twice",
            where="scenario",
            fix="name each scenario once",
        )
    return found
