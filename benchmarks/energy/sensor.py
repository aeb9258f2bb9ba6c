"""A power sensor that was found: what it measures, which of its rails count, how it is read."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Literal

Quantity = Literal["power", "energy"]
"""What a reading is: milliwatts now, or millijoules since some moment."""


def _nothing() -> None:
    """Close what holds nothing."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Missing:
    """A source that cannot be used here.

    Attributes:
        source: Name of the source.
        reason: Why, with what was found.
        fix: A command, or what to change; "" where nothing helps on this machine.
        is_absent: Whether it was looked for: not where it belongs to another kind of machine or
            measures another device.
    """

    source: str
    reason: str
    fix: str = ""
    is_absent: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sensor:
    """An open sensor; close it when done.

    Attributes:
        source: Name of the source.
        covers: What the total measures, in words: "the whole module".
        rails: Names, in the order of a reading.
        total: Which rails are added for the total, as indices.
        rule: What makes the total, in words.
        read: Returns a number a rail, NaN where it cannot be read now; milliwatts or millijoules.
            Where `interval_s` is 0 it waits for the next reading. Raises OSError when the sensor
            is lost.
        quantity: What a number is.
        interval_s: How often to read; 0 where `read` waits by itself.
        averaging_s: Over how long the sensor averages at most before it shows a number.
        wraps_at_mj: Energy at which a counter begins at 0 again, a number a rail; infinite where
            it does not.
        close: Ends what the source has begun.
    """

    source: str
    covers: str
    rails: tuple[str, ...]
    total: tuple[int, ...]
    rule: str
    read: Callable[[], Sequence[float]]
    quantity: Quantity = "power"
    interval_s: float = 0.1
    averaging_s: float = 0.0
    wraps_at_mj: tuple[float, ...] = ()
    close: Callable[[], None] = _nothing

    def total_names(self) -> tuple[str, ...]:
        """Return the names of the rails that are added."""
        return tuple(self.rails[index] for index in self.total)

    def in_words(self) -> str:
        """Return which sensor it is and what it covers, in one line."""
        return f"{self.source}, {self.covers} ({self.rule})"


def total_of(values: Sequence[float], total: Sequence[int]) -> float:
    """Return the sum of the rails of the total; NaN where one of them was not read."""
    return math.fsum(values[index] for index in total)
