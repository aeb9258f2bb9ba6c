"""What a budget limits, as it is written: "p99=12ms", "energy=90mJ", "memory=1.5GB"."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence

from engines.errors import UsageError
from engines.near_names import did_you_mean

_TIMES = {"s": 1e9, "ms": 1e6, "us": 1e3}
_ENERGIES = {"J": 1e3, "mJ": 1.0}
_SIZES = {"GB": 1e9, "MB": 1e6, "GiB": 2.0**30, "MiB": 2.0**20}
UNITS = {
    "p50": _TIMES, "p90": _TIMES, "p95": _TIMES, "p99": _TIMES, "energy": _ENERGIES,
    "memory": _SIZES,
}  # fmt: skip
"""The quantities that a budget may limit, each with its units in nanoseconds, mJ or bytes."""
HOW = {"energy": "add --energy", "memory": "add --scenario cold"}
"""What measures a quantity that is not always measured."""
_LIMIT = re.compile(r"(\w+)=([0-9]+(?:\.[0-9]+)?)([A-Za-z]+)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limit:
    """The most that a quantity may be.

    Attributes:
        quantity: A name of `UNITS`.
        most: In nanoseconds, millijoules an image, or bytes.
        unit: As it was written, "ms".
        text: As it was written, "p99=12ms".
    """

    quantity: str
    most: float
    unit: str
    text: str

    def shown(self, value: float) -> str:
        """Return a value in the limit's own unit."""
        return f"{value / UNITS[self.quantity][self.unit]:.4g} {self.unit}"


def parse_limit(text: str) -> Limit:
    """Return what "p99=12ms", "energy=90mJ" or "memory=1.5GB" limits.

    Raises:
        UsageError: It is none of these.
    """
    found = _LIMIT.fullmatch(text.strip())
    if found is None:
        raise UsageError(
            f"{text!r} is no limit", where="--budget", fix="write p99=12ms,energy=90mJ,memory=1.5GB"
        )
    name, number, unit = found.groups()
    if name not in UNITS:
        raise UsageError(
            f"{name!r} is not one of {', '.join(UNITS)}",
            where="--budget",
            fix=did_you_mean(name, tuple(UNITS), otherwise="choose one of the names above"),
        )
    if unit not in UNITS[name]:
        raise UsageError(
            f"{unit!r} is no unit of {name}, wanted {', '.join(UNITS[name])}",
            where="--budget",
            fix=f"write {name}={number}{next(iter(UNITS[name]))}, say",
        )
    most = float(number) * UNITS[name][unit]
    return Limit(quantity=name, most=most, unit=unit, text=text.strip())


def unmeasured(limits: Sequence[Limit], *, energy: bool, cold: bool) -> Iterator[tuple[str, str]]:
    """Yield the limits whose quantity will not be measured, with what would measure it.

    Args:
        limits: The budget.
        energy: Whether energy is.
        cold: Whether cold starts are.
    """
    for limit in limits:
        if (limit.quantity == "energy" and not energy) or (limit.quantity == "memory" and not cold):
            yield limit.text, HOW[limit.quantity]
